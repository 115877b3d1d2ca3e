"""How the programs begin and end."""

import ctypes
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from dhpf.common.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# Signals that stop a program, those that this system knows; the exit code is 128 and the number.
STOP_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)
# A launcher of several processes sets all of these; what else launchers set means nothing alone.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
OTHER_LAUNCHERS = ("OMPI_COMM_", "PMI_", "MV2_COMM_", "MPI_LOCAL")
# How long idle OpenMP threads wait in a loop: of GNU's OpenMP, turns; of Intel's and LLVM's, milliseconds.
SPIN_LIMITS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}


class Stopped(BaseException):
    """A signal of `STOP_SIGNALS` came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


@contextmanager
def well_ended(*, several_processes: bool = False) -> Iterator[None]:
    """Within, a program runs. A user's mistake ends it with one sentence and exit code 2, a signal with 128 + number.

    A user's mistake is a `UserError`, or what the system refuses about a named file. Anything else keeps its traceback;
    with DHPF_TRACEBACK=1 these do, too.

    Args: several_processes: a launcher may start it several times; others ignore what launchers set.
    """
    prepare_process()
    name = Path(sys.argv[0]).name
    try:
        with stopping_signals():
            check_launcher_env(several_processes)
            yield
            if sys.stdout:
                sys.stdout.flush()
    except Stopped as stop:
        exit_with(128 + stop.number, f"{name}: stopped by {stop.number.name}")
    except BrokenPipeError:  # who reads the output has left: `| head`
        discard(sys.stdout)
    except (UserError, OSError) as error:
        named = isinstance(error, UserError) or (error.filename and error.strerror)
        if not named or os.environ.get("DHPF_TRACEBACK") == "1":
            raise
        message = error if isinstance(error, UserError) else f"{error.filename}: {error.strerror}"
        exit_with(2, f"{name}: error: {message}")


def echo(text: str, *, stream: Any = None) -> None:
    """Print a line. Where the console cannot take it (closed, a full disk), the work goes on without."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        discard(stream)


def discard(stream: Any) -> None:
    """From now on a stream's output goes nowhere."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_with(code: int, message: str) -> NoReturn:
    echo(message, stream=sys.stderr)
    sys.exit(code)


def prepare_process() -> None:
    """Set up memory, processors and standard streams; before torch is imported."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would be taken for a standard stream
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # None, or a notebook's
            stream.reconfigure(errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what MPS lacks is computed on the CPU
    # Idle threads of OpenMP should neither sleep between two loops nor wait long for the next one.
    if not os.environ.keys() & {"OMP_WAIT_POLICY", *SPIN_LIMITS}:
        os.environ.update(SPIN_LIMITS)
    if hasattr(os, "sched_getaffinity") and (quota := processor_quota()) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, math.ceil(quota))))
    # glibc should reuse what is freed, in blocks up to 32 MiB: new pages took a seventh of an evaluation's time.
    with suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)


def processor_quota(root: Path = Path("/")) -> float:
    """Processors' worth of time that this process's control groups (version 2) grant; infinite without."""
    quota = math.inf
    with suppress(OSError, ValueError):
        line = (root / "proc/self/cgroup").read_text().splitlines()[-1]
        group = root / "sys/fs/cgroup" / line.removeprefix("0::").lstrip("/")
        for folder in (group, *group.parents):
            if (limit := folder / "cpu.max").is_file() and not (text := limit.read_text()).startswith("max"):
                time, period = map(int, text.split())
                quota = min(quota, time / period)
    return quota


def check_launcher_env(several_processes: bool) -> None:
    """Refuse leftovers of a launcher, which would wait for processes that nobody started.

    Raises: UserError: some of the variables of a launcher are missing.
    """
    given = [name for name in LAUNCHER if name in os.environ]
    if several_processes and given and (missing := [name for name in LAUNCHER if name not in given]):
        raise UserError(
            f"the environment has {', '.join(given)} but not {', '.join(missing)}: start several processes with "
            "torchrun, or unset those for one"
        )
    for name in [name for name in os.environ if name.startswith(OTHER_LAUNCHERS)]:
        del os.environ[name]
    if not several_processes:
        for name in given:
            del os.environ[name]


@contextmanager
def stopping_signals() -> Iterator[None]:
    """Within, a stopping signal raises `Stopped`, unless it was ignored before (nohup); a second one kills."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
