"""The programs as commands: in this process, or in processes of their own whose imports are paid once.

A server that has imported the libraries, and computed nothing, forks every such process.
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

from tests.helpers.places import ROOT

TINY = "--img-side 64 --bsz 4 --workers 0 --device cpu --no-download"
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
SECONDS = 120  # longer than any command takes on a busy machine
CLOSED = Path("closed")

# One thread a process, before the server imports torch: tests run side by side.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["dhpf.programs.train", "dhpf.programs.test", "dhpf.programs.reproduce"])


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code (negative: the signal that killed it), and what it wrote."""

    code: int
    out: str
    err: str


class Command:
    """`python PROGRAM ARGUMENTS` in a folder, running.

    Args:
        console: a file that standard output and error go to instead of files that are read; `CLOSED` closes them.
        ignored: signals that it inherits as ignored, as under nohup.
        method: how it starts processes that load images.
    """

    def __init__(
        self,
        folder: Path,
        arguments: str,
        environment: Mapping[str, str] = NO_GPU,
        console: Path | None = None,
        ignored: tuple[int, ...] = (),
        method: str = "fork",
    ) -> None:
        self.streams = [folder / f"command-{time.monotonic_ns()}.{name}" for name in ("out", "err")]
        for stream in self.streams:
            stream.touch()  # a process killed at once has written nothing
        self.process = SERVER.Process(
            target=_run,
            args=(folder, shlex.split(arguments), [console] * 2 if console else self.streams),
            kwargs={"environment": NO_GPU | environment, "ignored": ignored, "method": method},
        )
        self.process.start()

    def signal(self, number: int, everywhere: bool = False) -> None:
        """Signal the process, or all processes that it started too, unless it has ended."""
        with suppress(ProcessLookupError):
            (os.killpg if everywhere else os.kill)(self.process.pid, number)

    def wait_for(self, path: Path) -> None:
        """Until it has written a file or folder."""
        while not path.exists():
            assert self.process.is_alive(), self.end()
            time.sleep(0.01)

    def wait_for_predictions(self, folder: Path) -> None:
        """Until a test has predicted a pair, and its processes that load images are at work."""
        self.wait_for(path := folder / "predictions.part-0")
        while path.read_text().count("\n") < 2:  # the first line says of what they are
            assert self.process.is_alive(), self.end()
            time.sleep(0.01)

    def end(self) -> Outcome:
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.signal(signal.SIGKILL, everywhere=True)
            raise AssertionError("the command hangs")
        return Outcome(self.process.exitcode, *(stream.read_text() for stream in self.streams))


def run(
    folder: Path, arguments: str, environment: Mapping[str, str] = NO_GPU, *, reports: bool = False
) -> Outcome:
    """`python PROGRAM ARGUMENTS` or `python -m MODULE ARGUMENTS` in this process: what a command would do, without
    what a process costs. An error that would be a traceback is raised.

    Args: reports: whether a run ends with its report, which takes longer than all the rest.
    """
    program, *rest = shlex.split(arguments)
    module = rest.pop(0) if program == "-m" else f"dhpf.programs.{program.removesuffix('.py')}"
    if "/" in program:  # a benchmark
        return Command(folder, arguments, environment).end()
    main = import_module(module).main
    streams = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [program, *rest])
        if not reports:
            skip_reports(patch)
        for name, value in {"TORCH_HOME": str(folder), **NO_GPU, **environment}.items():
            patch.setenv(name, value)
        threads = torch.get_num_threads()
        try:
            code = main() or 0
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


def succeed(
    folder: Path, arguments: str, environment: Mapping[str, str] = NO_GPU, *, reports: bool = False
) -> Outcome:
    outcome = run(folder, arguments, environment, reports=reports)
    assert outcome.code == 0, (arguments, outcome)
    return outcome


def refused(folder: Path, arguments: str, *named: str) -> str:
    """The message of a command that must end with exit code 2 and one line, which names what it is to name, and
    leave no new run folder."""
    before = sorted(folder.glob("logs/*"))
    outcome = run(folder, arguments)
    assert outcome.code == 2, outcome
    assert re.fullmatch(r"\S+: error: .{20,}\n", outcome.err), outcome.err
    assert [name for name in named if name not in outcome.err] == [], outcome.err
    assert sorted(folder.glob("logs/*")) == before
    return outcome.err


def skip_reports(patch: pytest.MonkeyPatch) -> None:
    """Runs end without their reports."""
    for name in ("train.report_training", "test.report_test"):
        patch.setattr(f"dhpf.programs.{name}", lambda *_, **__: None)


def _run(
    folder: Path,
    arguments: list[str],
    streams: list[Path],
    environment: Mapping[str, str],
    ignored: tuple[int, ...],
    method: str,
) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # the tests may themselves ignore some
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else handler)
    for number, stream in enumerate(streams, start=1):
        os.close(number)
        if stream == CLOSED:
            setattr(sys, ("stdout", "stderr")[number - 1], None)
        else:
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(folder)
    multiprocessing.set_start_method(method, force=True)
    os.environ |= {"TORCH_HOME": str(folder), **environment}
    skip_reports(pytest.MonkeyPatch())
    sys.argv = [str(ROOT / arguments[0]), *arguments[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
