"""The console, which never decides: where output cannot go, the work goes on without."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


class Console(io.TextIOWrapper):
    """Standard output or error: of what cannot be written there, the rest is dropped."""

    def write(self, text: str, /) -> int:
        with self._tolerant():
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._tolerant():
            super().flush()

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # a reader that left, a full disk
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())  # what libraries and children write, too
                os.close(null)


@contextmanager
def consoles() -> Iterator[None]:
    """Within, standard output and error are a `Console` each, also where the descriptors are closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # or the next file that is opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stack.enter_context(_console(name))
        yield


@contextmanager
def _console(name: str) -> Iterator[None]:
    before = getattr(sys, name)
    if before is not None and type(before) is not io.TextIOWrapper:  # a notebook's, or another program's
        yield
        return
    raw = Path(os.devnull).open("wb") if before is None else before.buffer  # noqa: SIM115
    encoding = "utf-8" if before is None else before.encoding
    console = Console(raw, encoding, "backslashreplace", line_buffering=True)
    setattr(sys, name, console)
    try:
        yield
    finally:
        console.flush()
        setattr(sys, name, before)
        console.detach()
