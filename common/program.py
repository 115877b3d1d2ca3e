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
from types import FrameType
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
        with consoles(), stoppable():
            try:
                check_launcher_env(processes)
                main(arguments)
            except UserError as error:
                exit_with(2, f"{name}: error: {error}")
            except Stopped as stop:
                exit_with(128 + stop.number, f"{name}: stopped by {stop.number.name}")
            except (OSError, MemoryError, RuntimeError, ImportError) as error:
                if not (words := refusal(error)):
                    raise
                exit_with(2, f"{name}: error: {words}")

    return run


def exit_with(code: int, words: str) -> NoReturn:
    print(words, file=sys.stderr)
    sys.exit(code)


def check_launcher_env(processes: bool) -> None:
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
def stoppable() -> Iterator[None]:
    """Within, a stopping signal raises `Stopped`, unless it was ignored before (nohup); a second one kills.

    While a library is imported it waits: C code then makes another error of an exception, or aborts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    timed = hasattr(signal, "setitimer")  # not on Windows

    def stop(number: int, frame: FrameType | None) -> None:
        for each in heeded:
            signal.signal(each, signal.SIG_DFL)
        if not (timed and importing(frame)):
            raise Stopped(number)
        signal.signal(signal.SIGALRM, lambda _, frame: stop(number, frame))
        signal.setitimer(signal.ITIMER_REAL, 0.02)

    heeded = {
        number: signal.getsignal(number) for number in STOPS if signal.getsignal(number) != signal.SIG_IGN
    }
    for number in heeded:
        signal.signal(number, stop)
    try:
        yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in heeded.items():
            signal.signal(number, handler)


def importing(frame: FrameType | None) -> bool:
    """Whether something that a program runs is being imported there."""
    while frame and frame.f_code.co_filename != __file__:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def keep_freed_memory() -> None:
    """Have glibc reuse what this process frees, in blocks up to 32 MiB, instead of returning it to the system.

    New pages took a seventh of an evaluation's time.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest block that it may say this of
