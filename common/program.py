"""How the programs begin and end, whatever the machine does to them."""

import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from dhpf.common.console import consoles
from dhpf.common.errors import UserError, refusal
from dhpf.common.processors import share_processors

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# Signals that stop a program, those that this system knows; the exit code is 128 and the number.
STOPS = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
# What a launcher of several processes sets, all of them; what else launchers set means nothing alone.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
OTHERS = ("OMPI_COMM_", "PMI_", "MV2_COMM_", "MPI_LOCAL")


class Stopped(BaseException):
    """A signal of `STOPS` came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def program(
    main: Callable[[Sequence[str] | None], None] | None = None, *, processes: bool = False
) -> Callable[..., Any]:
    """A program of options (the process's if not given).

    A user's mistake or a machine that refuses something ends it with one sentence and exit code 2; a signal with 128
    and its number. The console never decides: where output cannot go, the work goes on without.

    Args: processes: it may be several processes of a launcher; others ignore what launchers set.
    """
    if main is None:
        return functools.partial(program, processes=processes)

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> None:
        keep_freed_memory()
        share_processors()
        name = Path(sys.argv[0]).name
        with consoles(), stoppable() as stops:
            try:
                heed_launcher(processes)
                main(arguments)
            except UserError as error:
                leave(2, f"{name}: error: {error}")
            except (Exception, Stopped) as error:
                # C code that runs while a library is imported makes another error of `Stopped`.
                stop = error if isinstance(error, Stopped) else stops and stops[0]
                if stop:
                    leave(128 + stop.number, f"{name}: stopped by {stop.number.name}")
                if not (words := refusal(error)):
                    raise
                leave(2, f"{name}: error: {words}")

    return run


def leave(code: int, words: str) -> NoReturn:
    print(words, file=sys.stderr)
    sys.exit(code)


def heed_launcher(processes: bool) -> None:
    """Takes what launchers of several processes set for what it is: all of it, where a program may be several.

    Raises: UserError: some is missing.
    """
    given = [name for name in LAUNCHER if name in os.environ]
    if processes and given and (missing := [name for name in LAUNCHER if name not in given]):
        raise UserError(
            f"the environment has {', '.join(given)} but not {', '.join(missing)}: start several processes with "
            "torchrun, or unset those for one"
        )
    others = [name for name in os.environ if name.startswith(OTHERS)]
    for name in others if processes else others + given:
        del os.environ[name]


@contextmanager
def stoppable() -> Iterator[list[Stopped]]:
    """Within, a stopping signal raises `Stopped`, unless it was ignored before (nohup); a second one kills.

    Yields: what was raised, nothing before.
    """
    came: list[Stopped] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def stop(number: int, _: Any) -> NoReturn:
        for each in heeded:
            signal.signal(each, signal.SIG_DFL)
        came.append(Stopped(number))
        raise came[0]

    heeded = {
        number: signal.getsignal(number) for number in STOPS if signal.getsignal(number) != signal.SIG_IGN
    }
    for number in heeded:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Have glibc reuse what this process frees, in blocks up to 32 MiB, instead of returning it to the system.

    New pages took a seventh of an evaluation's time.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest block that it may say this of
