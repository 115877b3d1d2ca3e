"""A hostile machine: whatever it does, one sentence tells it, and what can go on goes on."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from dhpf.common import processes
from dhpf.common.console import Console
from dhpf.common.errors import UserError, refusal
from dhpf.common.program import LAUNCHER, check_launcher_env, program
from dhpf.common.run import Run, hold
from dhpf.data import loading, open_benchmark
from dhpf.data.loading import Loader
from dhpf.weights import files as weights
from tests.helpers.commands import SERVER, TINY, Outcome, run, succeed
from tests.helpers.places import ROOT

LAUNCHED = dict(zip(LAUNCHER, ("0", "2", "0", "localhost", "29500"), strict=True))


# A signal that comes just before a sleep begins is heeded when it ends.
WAITING = "[time.sleep(0.05) for _ in range(1200)]"


def heed_signals() -> None:
    """Also where the tests themselves run in the background, and are to ignore some."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def light(body: str, shell: str = "exec {command}", signals: tuple[int, ...] = ()) -> Outcome:
    """A program without libraries, in a process of its own; signals are sent when it says that it is ready."""
    script = f"import os, sys, time\nfrom dhpf.common.program import program\n@program\ndef main(_):\n {body}\nmain()"
    line = shell.format(command=f"{sys.executable} -c '{script}'")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(["bash", "-c", line], cwd=ROOT, preexec_fn=heed_signals, **pipes)
    if signals:
        assert process.stdout.readline() == "ready\n"
    for place, number in enumerate(signals):
        if place:
            time.sleep(1)  # two at once are heeded in any order
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return Outcome(process.returncode, out, err)


# The console


def test_output_that_nobody_reads_does_not_end_the_work() -> None:
    read, write = os.pipe()
    os.close(read)
    console = Console(os.fdopen(write, "wb"), "ascii", "backslashreplace", line_buffering=True)
    for _ in range(3):
        console.write("näme\n")
    console.flush()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_the_console_does_not_end_the_work() -> None:
    console = Console(Path("/dev/full").open("wb"), "utf-8", line_buffering=True)  # noqa: SIM115
    console.write("line\n")
    console.write("more\n")
    console.flush()


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >/dev/full 2>&-"])
def test_closed_descriptors_do_not_end_the_work(closed: str, tmp_path: Path) -> None:
    """Nor is a file that is opened then taken for the console."""
    talk = 'print("näme \\udcff"); print("x", file=sys.stderr)'
    body = f'f = open("{tmp_path / "work"}", "w"); {talk}; f.write("done"); f.close()'
    assert light(body, f"exec {{command}} {closed}").code == 0
    assert (tmp_path / "work").read_text() == "done"


def test_a_name_that_the_console_cannot_show_is_escaped() -> None:
    outcome = light('print("näme \\udcff")', "PYTHONIOENCODING=ascii exec {command}")
    assert outcome == Outcome(0, "n\\xe4me \\udcff\n", "")


# Signals


@pytest.mark.parametrize(("number", "code"), [("SIGHUP", 129), ("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_a_program_with_one_sentence(number: str, code: int) -> None:
    outcome = light(f'print("ready", flush=True); {WAITING}', signals=(signal.Signals[number],))
    assert outcome == Outcome(code, "", f"-c: stopped by {number}\n")


def test_a_signal_waits_until_a_library_is_imported(tmp_path: Path) -> None:
    """Whose C code would make another error of it; meanwhile a second one kills."""
    library = """import time
print("ready", flush=True)
try:
    for _ in range({seconds} * 20):
        time.sleep(0.05)
except BaseException as error:
    raise ImportError from error
"""
    (tmp_path / "library.py").write_text(library.format(seconds=1))
    body = f'sys.path.insert(0, "{tmp_path}"); import library; {WAITING}'
    assert light(body, signals=(signal.SIGTERM,)) == Outcome(143, "", "-c: stopped by SIGTERM\n")
    (tmp_path / "library.py").write_text(library.format(seconds=60))
    assert light(body, signals=(signal.SIGTERM, signal.SIGINT)) == Outcome(-signal.SIGINT, "", "")


def test_what_nohup_ignores_stays_ignored() -> None:
    body = 'print("ready", flush=True); time.sleep(0.3); print("done")'
    outcome = light(body, "trap '' HUP; exec {command}", signals=(signal.SIGHUP,))
    assert outcome == Outcome(0, "done\n", "")


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in ROOT.glob("*.py") if (ROOT / "programs" / p.name).is_file())
)
def test_ctrl_c_while_a_program_is_imported_shows_no_traceback(name: str, tmp_path: Path) -> None:
    """As a script and as an installed command; a job that the shell put into the background goes on."""
    for own in (f"{name}.py", "dhpf/commands.py", "dhpf/__init__.py"):
        (tmp_path / own).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / own, tmp_path / own)
    room = tmp_path / "dhpf" / "programs"
    room.mkdir()
    (room / f"{name}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nmain = print\n")
    (tmp_path / "installed.py").write_text(f"from dhpf.commands import {name} as main\nmain()\n")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[f"dhpf-{name}"] == f"dhpf.commands:{name}"
    for script in (f"{name}.py", "installed.py"):
        for heeds, code, out in ((heed_signals, -signal.SIGINT, ""), (ignore_ctrl_c, 0, "\n")):
            command = [sys.executable, "-S", script]
            done = subprocess.run(command, cwd=tmp_path, preexec_fn=heeds, capture_output=True, text=True)
            assert (done.returncode, done.stdout, done.stderr) == (code, out, "")


# What the system refuses


def test_a_fault_in_a_worker_is_no_refusal() -> None:
    assert not refusal(
        RuntimeError("Caught RuntimeError in DataLoader worker process 0.\n...\nRuntimeError: odd")
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "ulimit -v",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "--bsz"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "not enough memory"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "size of /dev/shm"),
        (
            OSError(
                "Caught OSError in DataLoader worker process 0.\nOSError: [Errno 24] Too many open files"
            ),
            "-n",
        ),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                "  ...\nRuntimeError: unable to allocate shared memory(shm) for file </x>: No space left\n"
            ),
            "size of /dev/shm",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), "x/y: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x/y"), "x/y: Permission denied"),
    ],
)
def test_what_is_refused_is_told_in_a_sentence(error: Exception, words: str, capsys: Any) -> None:
    @program
    def main(_: Any) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        main([])
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert words in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("no"), KeyError("memory")])
def test_a_fault_of_the_program_is_no_refusal(error: Exception) -> None:
    @program
    def main(_: Any) -> None:
        raise error

    with pytest.raises(type(error)):
        main([])


# Workers


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_killed_worker_is_told() -> None:
    with pytest.raises(RuntimeError) as error:
        list(Loader(die, 1)([[0, 1]]))
    assert "the processes that load images failed: give fewer --workers" in refusal(error.value)


def test_small_tensors_of_workers_take_no_descriptor(data: Path) -> None:
    """48 workers ran out of 1,024 descriptors: each tensor took one."""
    (batch,) = loading._collate([(open_benchmark("pfpascal", data, "val", img_side=128)[0], None)] * 2)[:1]
    taking = {name for name, value in batch.items() if isinstance(value, torch.Tensor)}
    assert taking == {"src_img", "trg_img"}
    (batch,) = [b for b, _ in Loader(partial(item, data), 1)([[0, 1]])]
    assert isinstance(batch["n_pts"], torch.Tensor)


def item(data: Path, i: int) -> dict[str, Any]:
    return open_benchmark("pfpascal", data, "val", img_side=64)[i]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_batches_are_the_same_however_workers_are_started(
    data: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows and macOS have no fork, Python 3.14 uses a fork server."""
    get = open_benchmark("pfpascal", data, "val", img_side=64).__getitem__
    expected = list(Loader(get, 0)([[0, 1], [2]]))
    monkeypatch.setattr(loading, "DataLoader", partial(DataLoader, multiprocessing_context=method))
    for (batch, errors), (own, _) in zip(Loader(get, 1)([[0, 1], [2]]), expected, strict=True):
        assert errors == []
        assert batch.keys() == own.keys()
        for name, value in own.items():
            assert (
                torch.equal(batch[name], value) if isinstance(value, torch.Tensor) else batch[name] == value
            )


def load_for_ever(method: str, folder: Path) -> None:
    loading.DataLoader = partial(DataLoader, multiprocessing_context=method)  # type: ignore[misc]
    for _ in Loader(abs, 1)([[1]] * 10**6):
        children = psutil.Process().children(recursive=True)
        (folder / "part").write_text(" ".join(str(child.pid) for child in children))
        (folder / "part").rename(folder / "pids")


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_with_the_main_process_however_it_ends(method: str, tmp_path: Path) -> None:
    """kill -9 left two workers of a fork server for ever, which ignored SIGTERM."""
    main = SERVER.Process(target=load_for_ever, args=(method, tmp_path))
    main.start()
    while not (tmp_path / "pids").exists():
        assert main.is_alive()
        time.sleep(0.02)
    children = [
        psutil.Process(int(pid))
        for pid in (tmp_path / "pids").read_text().split()
        if psutil.pid_exists(int(pid))
    ]
    main.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_what_ends_a_training_is_in_its_log(broken: Path, tmp_path: Path) -> None:
    outcome = run(
        tmp_path, f"train.py --benchmark pfpascal --datapath {broken} {TINY} --niter 1 --logpath run"
    )
    assert outcome.code == 2
    last = (tmp_path / "logs" / "run" / "log.txt").read_text().splitlines()[-1]
    assert last.startswith("stopped: ")
    assert last.removeprefix("stopped: ") in outcome.err


# Launchers


def test_programs_that_are_one_process_ignore_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (
        {"LOCAL_RANK": "0"},
        LAUNCHED,
        {"SLURM_PROCID": "1", "PMI_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"},
    ):
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        check_launcher_env(processes=False)
        assert not {*LAUNCHER, "PMI_RANK", "OMPI_COMM_WORLD_SIZE"} & os.environ.keys()


def test_an_incomplete_set_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=r"has RANK, WORLD_SIZE, LOCAL_RANK but not MASTER_ADDR, MASTER_PORT"):
        check_launcher_env(processes=True)


def test_a_whole_set_is_several_processes_and_others_alone_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**LAUNCHED, "PMI_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    check_launcher_env(processes=True)
    assert {name: os.environ[name] for name in LAUNCHER} == LAUNCHED
    assert "PMI_SIZE" not in os.environ
    for name in LAUNCHER:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    check_launcher_env(processes=True)
    assert "OMPI_COMM_WORLD_RANK" not in os.environ


def test_waiting_for_other_processes_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "PATIENCE", 0.01)
    with processes.waiting():
        time.sleep(0.2)
    assert "process 0 of 0 to 1 waits for the others at localhost:29500\n" in capsys.readouterr().err


# Two processes, one folder


def test_a_run_belongs_to_one_process_at_a_time(data: Path, tmp_path: Path) -> None:
    succeed(tmp_path, f"train.py --benchmark pfpascal --datapath {data} {TINY} --niter 1 --logpath run")
    folder = tmp_path / "logs" / "run"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = Run(folder)
    outcome = run(tmp_path, "train.py --resume logs/run --niter 2")
    assert (outcome.code, outcome.out) == (2, "")
    assert "logs/run: another process is writing in this folder" in outcome.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    other.close()
    succeed(tmp_path, "train.py --resume logs/run --niter 2")


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    read, write = os.pipe()
    if not (child := os.fork()):
        lock = hold(tmp_path)
        os.write(write, b"1")
        time.sleep(60 if lock else 0)
        os._exit(0)
    os.read(read, 1)
    with pytest.raises(UserError, match="another process"):
        hold(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    hold(tmp_path).release()


# Broken weights, no home


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        (b"\x8f\x12random bytes" * 50, "damaged"),
        (None, "damaged"),
    ],
)
def test_what_a_file_of_weights_is_instead_is_told(tmp_path: Path, content: bytes | None, words: str) -> None:
    """In torch's cache, too: there it was said to put the file where it lies."""
    if content is None:  # cut off
        torch.save({"fc": torch.zeros(9)}, tmp_path / "whole.pth")
        content = (tmp_path / "whole.pth").read_bytes()[:-100]
    cached = tmp_path / "hub" / "checkpoints" / "resnet101-63fe2227.pth"
    cached.parent.mkdir(parents=True)
    for path in (cached, tmp_path / "own.pt", tmp_path / "own.safetensors"):
        path.write_bytes(content)
    for path in (tmp_path / "own.pt", tmp_path / "own.safetensors"):
        with pytest.raises(UserError, match=rf"{path.name}: .*{words}.*: replace it"):
            weights.read_tensors(path)
    outcome = run(tmp_path, f"test.py --backbone resnet101 {TINY}")
    assert outcome.code == 2
    assert str(cached) in outcome.err
    assert words in outcome.err
    assert "fetched anew" in outcome.err


def test_without_a_home_the_variable_that_helps_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DHPF_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    outcome = run(tmp_path, f"test.py --load dhpf:spair-weak-resnet101 {TINY}")
    assert outcome.code == 2
    assert "DHPF_CACHE=FOLDER" in outcome.err


def test_a_run_folder_stands_for_its_best_model(data: Path, tmp_path: Path) -> None:
    succeed(tmp_path, f"train.py --benchmark pfpascal --datapath {data} {TINY} --niter 1 --logpath run")
    for name in ("run", "run/best_model.safetensors"):
        assert (
            "learner: logs/run/best"
            in succeed(
                tmp_path, f"test.py --benchmark pfpascal --datapath {data} {TINY} --load logs/{name}"
            ).out
        )
    outcome = run(tmp_path, f"test.py {TINY} --load logs/run/state.pt")
    assert outcome.code == 2
    assert "its best model is logs/run/best_model.pt" in outcome.err
