"""Training and testing as commands: what they leave behind, and that it depends on nothing but the options."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from filelock import FileLock

from dhpf.common import __version__
from tests.helpers.commands import CLOSED, TINY, Command, refused, run, succeed
from tests.helpers.models import draw_learner

RESULTS = ("results.json", "predictions.csv.gz")
DAMAGED = "2008_000001_cat.jpg"  # in the data `broken`


def on(data: Path, benchmark: str = "pfpascal") -> str:
    return f"--benchmark {benchmark} --datapath {data} {TINY}"


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names or sorted(p.name for p in folder.iterdir())}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A folder with a finished training, logs/trained, and a test of its model, logs/tested."""
    folder = tmp_path_factory.mktemp("home")
    assert "epoch 2/2" in succeed(folder, f"train.py {on(data)} --niter 2 --logpath trained").out
    assert "PCK" in succeed(folder, f"test.py {TEST.format(data=data)} --logpath tested").out
    return folder


TEST = f"--benchmark pfpascal --datapath {{data}} {TINY} --load logs/trained/best_model.pt --alpha 0.05 0.1"


# What a run leaves


def test_a_training_leaves_its_history_options_and_the_published_form_of_its_model(home: Path) -> None:
    folder = home / "logs" / "trained"
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0]["trn_loss"] != rows[1]["trn_loss"]
    options = json.loads((folder / "options.json").read_text())
    assert (options["niter"], options["versions"]["dhpf"]) == (2, __version__)

    expected = draw_learner("efficientnet_lite0")
    saved = torch.load(folder / "best_model.pt", weights_only=True)
    twin = safetensors.torch.load_file(folder / "best_model.safetensors")
    assert list(saved) == list(expected)
    assert saved.keys() == twin.keys()
    for name, tensor in saved.items():
        assert (tensor.shape, tensor.dtype) == (expected[name].shape, expected[name].dtype)
        assert torch.equal(tensor, twin[name])


def test_a_weakly_supervised_model_of_another_benchmark_is_tested(data: Path, tmp_path: Path) -> None:
    succeed(tmp_path, f"train.py {on(data, 'spair')} --supervision weak --niter 1 --logpath trained")
    succeed(tmp_path, f"test.py {on(data, 'spair')} --load logs/trained --logpath tested")
    assert json.loads((tmp_path / "logs" / "tested" / "results.json").read_text())["figures"]["n_pairs"] == 8


@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_a_run_folder_is_never_overwritten(data: Path, home: Path, program: str) -> None:
    before = contents(home / "logs" / "trained")
    refused(home, f"{program} {on(data)} --logpath trained", "logs/trained", "--resume", "--overwrite")
    assert contents(home / "logs" / "trained") == before


def test_a_run_folder_is_overwritten_where_that_is_asked(data: Path, home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "logs" / "trained", tmp_path / "logs" / "trained")
    folder = tmp_path / "logs" / "run"
    folder.mkdir()
    (folder / "mine.txt").write_text("no run")
    command = f"test.py {TEST.format(data=data)} --logpath run --overwrite"
    refused(tmp_path, command, "logs/run")
    (folder / "options.json").write_text("{}")
    succeed(tmp_path, command)
    assert contents(folder, *RESULTS) == contents(home / "logs" / "tested", *RESULTS)
    assert not (folder / "mine.txt").exists()
    log = (folder / "log.txt").read_text().splitlines()
    assert len(log) == len(set(log))
    assert max(map(len, log[-8:])) <= 100
    refused(tmp_path, f"train.py {on(data)} --overwrite", "--logpath")
    succeed(tmp_path, f"train.py {on(data)} --niter 1 --logpath run --overwrite")
    assert not (folder / "results.json").exists()


def test_one_process_at_a_time_has_a_run_folder(home: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(home / "logs" / "trained", tmp_path / "logs" / "trained")
    before = contents(folder)
    with FileLock(folder / ".lock"):
        refused(tmp_path, "train.py --resume logs/trained --niter 3", "logs/trained")
    assert contents(folder) == before


# On what results do not depend


def test_one_seed_gives_one_model_whatever_the_workers(data: Path, home: Path) -> None:
    train = f"train.py {on(data)} --niter 2"
    succeed(home, f"{train} --workers 2 --logpath again")
    succeed(home, f"{train} --seed 1 --logpath other")
    names = "best_model.pt", "best_model.safetensors", "history.csv"
    trained, again, other = (contents(home / "logs" / run, *names) for run in ("trained", "again", "other"))
    assert again == trained
    assert not [name for name in names if other[name] == trained[name]]


@pytest.mark.parametrize("arguments", ["--bsz 1", "--bsz 16 --workers 2 --cache-gb 0", "--load logs/trained"])
def test_results_depend_on_neither_batches_nor_workers_nor_cached_features(
    data: Path, home: Path, arguments: str
) -> None:
    name = "with-" + "".join(c for c in arguments if c.isalnum())
    succeed(home, f"test.py {TEST.format(data=data)} {arguments} --logpath {name}")
    assert contents(home / "logs" / name, *RESULTS) == contents(home / "logs" / "tested", *RESULTS)


def test_the_safetensors_twin_gives_the_same_predictions(data: Path, home: Path) -> None:
    succeed(
        home, f"test.py {TEST.format(data=data)} --load logs/trained/best_model.safetensors --logpath twin"
    )
    for name in RESULTS[1:]:
        assert contents(home / "logs" / "twin", name) == contents(home / "logs" / "tested", name)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_results_do_not_depend_on_how_workers_are_started(data: Path, home: Path, method: str) -> None:
    """Windows and macOS have no fork, Python 3.14 uses a fork server."""
    arguments = f"test.py {TEST.format(data=data)} --workers 1 --logpath {method}"
    assert Command(home, arguments, method=method).end().code == 0
    assert contents(home / "logs" / method, *RESULTS) == contents(home / "logs" / "tested", *RESULTS)


@pytest.mark.parametrize("console", [CLOSED, Path("/dev/full")], ids=["closed", "full"])
def test_results_do_not_depend_on_the_console(data: Path, home: Path, console: Path) -> None:
    if console.is_absolute() and not console.exists():
        pytest.skip(f"no {console} here")
    name = f"console-{console.name}"
    assert (
        Command(home, f"test.py {TEST.format(data=data)} --logpath {name}", console=console).end().code == 0
    )
    assert contents(home / "logs" / name, *RESULTS) == contents(home / "logs" / "tested", *RESULTS)


def test_a_path_may_have_a_byte_that_is_not_utf_8(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.symlink_to(data)
    arguments = f"test.py {on(folder)} --raw --logpath run"
    assert Command(tmp_path, arguments).end().code == 0
    assert (tmp_path / "logs" / "run" / "results.json").is_file()


# Data that cannot be used


@pytest.mark.parametrize("program", ["train.py --niter 1", "test.py"])
def test_a_damaged_image_stops_the_run_and_is_in_its_log(broken: Path, tmp_path: Path, program: str) -> None:
    outcome = run(tmp_path, f"{program} {on(broken)} --logpath run")
    assert (outcome.code, outcome.err.count("\n"), DAMAGED in outcome.err) == (2, 1, True)
    assert DAMAGED in (tmp_path / "logs" / "run" / "log.txt").read_text().splitlines()[-1]
    assert not (tmp_path / "logs" / "run" / "results.json").exists()


def test_skipped_pairs_are_named_and_counted(broken: Path, tmp_path: Path) -> None:
    for program in ("train.py --niter 1", "test.py"):
        succeed(tmp_path, f"{program} {on(broken)} --on-bad-pair skip --logpath {program.split()[0]}")
    with (broken / "PF-PASCAL" / "test_pairs.csv").open() as file:
        pairs = [(row["source_image"], row["target_image"]) for row in csv.DictReader(file)]
    bad = [" - ".join(f"JPEGImages/{n}" for n in pair) for pair in pairs if DAMAGED in pair]
    results = json.loads((tmp_path / "logs" / "test.py" / "results.json").read_text())
    assert results["options"]["skipped"] == bad
    assert results["figures"]["n_pairs"] == len(pairs) - len(bad)
    log = (tmp_path / "logs" / "test.py" / "log.txt").read_text()
    assert f"{len(bad)} of {len(pairs)} pairs skipped: {', '.join(bad)}" in log
    log = (tmp_path / "logs" / "train.py" / "log.txt").read_text()
    count = log.count("skipped: ")
    assert count > 0
    assert f"epoch 1: {count} pairs skipped" in log


# A test that was stopped


def test_a_stopped_test_goes_on_to_the_same_results(
    data: Path, home: Path, broken: Path, tmp_path: Path
) -> None:
    """Stopped by a damaged image, cut off while it wrote, and continued when the image is mended."""
    shutil.copytree(home / "logs" / "trained", tmp_path / "logs" / "trained")
    folder = tmp_path / "logs" / "run"
    assert run(tmp_path, f"test.py {TEST.format(data=broken)} --bsz 1 --logpath run").code == 2
    (part,) = folder.glob("predictions.part-*")
    kept = part.read_text().count("\n[")
    assert 1 < kept < 8
    part.write_text(part.read_text()[:-40])
    refused(tmp_path, "test.py --resume logs/run --thres bbox", "--thres")
    pairs = broken / "PF-PASCAL" / "test_pairs.csv"
    whole = pairs.read_bytes()
    pairs.write_bytes(b"\n".join(whole.splitlines()[:-1]))
    refused(tmp_path, "test.py --resume logs/run", "logs/run", "pairs")
    pairs.write_bytes(whole)
    image = Path("PF-PASCAL", "JPEGImages", DAMAGED)
    shutil.copy(data / image, broken / image)
    outcome = succeed(tmp_path, "test.py --resume logs/run --workers 1")
    assert f"{kept - 1} of 8 pairs" in outcome.out
    assert contents(folder, *RESULTS) == contents(home / "logs" / "tested", *RESULTS)
    assert not list(folder.glob("predictions.part-*"))
    refused(tmp_path, "test.py --resume logs/run", "logs/run")


@pytest.mark.parametrize(
    "name", ["SIGINT", *(pytest.param(n, marks=pytest.mark.slow) for n in ("SIGHUP", "SIGTERM"))]
)
def test_a_signal_ends_a_test_that_can_be_resumed(tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    command = Command(tmp_path, f"test.py --benchmark synthetic --raw --logpath run {TINY} --workers 1")
    command.wait_for_predictions(tmp_path / "logs" / "run")
    command.signal(number, everywhere=True)
    outcome = command.end()
    assert outcome.code == 128 + number
    assert "--resume logs/run" in outcome.out.splitlines()[-1]


def test_what_nohup_ignores_stays_ignored(data: Path, tmp_path: Path) -> None:
    command = Command(tmp_path, f"test.py {on(data)} --raw --logpath run", ignored=(signal.SIGHUP,))
    command.wait_for(tmp_path / "logs" / "run")
    command.signal(signal.SIGHUP)
    assert command.end().code == 0
