"""The programs as commands: in this process, or in own ones whose imports are paid once.

A server that has imported the libraries, and computed nothing, forks every own process.
"""

import multiprocessing
import os
import re
import runpy
import shlex
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
import torch

from dhpf.common.program import STOPS
from dhpf.programs import testing
from dhpf.report import training_report
from tests.helpers.places import ROOT

LIBRARIES = ["dhpf.training.trainer", "dhpf.programs.testing", "dhpf.programs.tables", "tensorboardX"]
TINY = "--img-side 64 --bsz 4 --workers 0 --device cpu --no-download"
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
SECONDS = 120  # longer than any command takes on a busy machine

# One thread a process, before the server imports torch: tests run beside each other.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(LIBRARIES)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code (negative: the signal that killed it), and what it wrote."""

    code: int
    out: str
    err: str


class Command:
    """`python PROGRAM ARGUMENTS`, or `python -m MODULE ARGUMENTS`, in a folder, running."""

    def __init__(self, folder: Path, arguments: str, environment: Mapping[str, str] = NO_GPU) -> None:
        self.streams = [folder / f"command-{time.monotonic_ns()}.{name}" for name in ("out", "err")]
        for stream in self.streams:
            stream.touch()  # a process killed at once has written nothing
        self.process = SERVER.Process(
            target=_run, args=(folder, shlex.split(arguments), self.streams, NO_GPU | environment)
        )
        self.process.start()

    def signal(self, number: int, everywhere: bool = False) -> None:
        """Signal the process, or all processes that it started too, unless it has ended."""
        with suppress(ProcessLookupError):
            (os.killpg if everywhere else os.kill)(self.process.pid, number)

    def end(self) -> Outcome:
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.signal(signal.SIGKILL, everywhere=True)
            raise AssertionError("the command hangs")
        return Outcome(self.process.exitcode, *(stream.read_text() for stream in self.streams))


def run(folder: Path, arguments: str, environment: Mapping[str, str] = NO_GPU) -> Outcome:
    """The program in this process: as a command would end, without what a process costs."""
    program, *rest = shlex.split(arguments)
    if not (ROOT / "programs" / program).is_file():  # a module, a benchmark
        return Command(folder, arguments, environment).end()
    streams = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [program, *rest])
        # Reports take longer than all the rest and have tests of their own.
        patch.setattr(training_report, "report_training", lambda *_: None)
        patch.setattr(testing, "report_test", lambda *_: None)
        for name, value in {"TORCH_HOME": str(folder), **NO_GPU, **environment}.items():
            patch.setenv(name, value)
        threads = torch.get_num_threads()
        try:
            import_module(f"dhpf.programs.{program.removesuffix('.py')}").main(rest)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            torch.set_num_threads(threads)
    return Outcome(code, *(stream.getvalue() for stream in streams))


def run_processes(folder: Path, arguments: str, count: int) -> list[Command]:
    """The processes of one job, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        job = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    job |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    ranks = [job | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [Command(folder, arguments, rank) for rank in ranks]


def succeed(folder: Path, arguments: str, environment: Mapping[str, str] = NO_GPU) -> Outcome:
    outcome = run(folder, arguments, environment)
    assert outcome.code == 0, (arguments, outcome)
    return outcome


def refused(folder: Path, arguments: str) -> str:
    """The message of a command that must end with one clear line, exit code 2, and leave no run folder."""
    before = sorted(folder.glob("logs/*"))
    outcome = run(folder, arguments)
    assert outcome.code == 2, outcome
    assert re.fullmatch(r"(train|test)\.py: error: .{20,}\n", outcome.err), outcome.err
    assert sorted(folder.glob("logs/*")) == before
    return outcome.err


def _run(folder: Path, arguments: list[str], streams: list[Path], environment: Mapping[str, str]) -> None:
    os.setsid()
    for number in STOPS:  # also where the tests run in the background, and are to ignore some
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)
    os.environ |= {"TORCH_HOME": str(folder), **environment}
    training_report.report_training = testing.report_test = lambda *_: None
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [str(ROOT / arguments[0]), *arguments[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")
