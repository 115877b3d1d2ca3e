"""What a machine does to a program: refuses files, kills processes, leaves variables of launchers behind."""

import errno
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from dhpf.data import BENCHMARKS
from tests.helpers.commands import SECONDS, TINY, Command, refused, run

COMMAND = f"test.py --benchmark synthetic --raw {TINY}"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The benchmark fails with the test's error."""

    def fail(*_: object, **__: object) -> None:
        raise request.param

    monkeypatch.setattr(BENCHMARKS["synthetic"], "__init__", fail)


@pytest.mark.parametrize(
    "failing",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "home/shmuel/x"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "home/shmuel/x"),
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "home/shmuel/x"),
    ],
    indirect=True,
)
def test_what_the_system_refuses_about_a_file_is_one_sentence(
    failing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(tmp_path, COMMAND, "home/shmuel/x")
    monkeypatch.setenv("DHPF_TRACEBACK", "1")
    with pytest.raises(OSError, match="home/shmuel/x"):
        run(tmp_path, COMMAND)


@pytest.mark.parametrize(
    "failing", [RuntimeError("shapes differ"), ValueError("no"), KeyError("memory")], indirect=True
)
def test_a_programming_error_keeps_its_traceback(failing: None, tmp_path: Path) -> None:
    with pytest.raises((RuntimeError, ValueError, KeyError)):
        run(tmp_path, COMMAND)


def test_variables_of_other_launchers_alone_mean_nothing(data: Path, tmp_path: Path) -> None:
    others = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "PMI_SIZE": "4", "SLURM_PROCID": "1"}
    command = f"test.py --benchmark pfpascal --datapath {data} --raw {TINY} --logpath run"
    assert Command(tmp_path, command, others).end().code == 0
    assert (tmp_path / "logs" / "run" / "results.json").exists()


def loading(folder: Path, method: str) -> tuple[Command, list[psutil.Process]]:
    """A test that has started processes that load images, and these."""
    command = Command(folder, f"{COMMAND} --workers 2 --bsz 1", method=method)
    wanted = 2 if method == "fork" else 4  # a server and a tracker, too
    while len(children := psutil.Process(command.process.pid).children(recursive=True)) < wanted:
        assert command.process.is_alive(), command.end()
        time.sleep(0.01)
    return command, children


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_workers_end_with_the_main_process_however_it_ends(method: str, tmp_path: Path) -> None:
    command, children = loading(tmp_path, method)
    command.signal(signal.SIGKILL)
    assert command.end().code == -signal.SIGKILL
    assert psutil.wait_procs(children, timeout=SECONDS)[1] == []


def test_a_program_ends_with_a_killed_worker(tmp_path: Path) -> None:
    command, children = loading(tmp_path, "fork")
    command.wait_for_predictions(next(tmp_path.glob("logs/*")))
    children[0].kill()
    outcome = command.end()
    assert outcome.code > 0
    assert outcome.err
