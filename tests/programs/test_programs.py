"""The command lines: what they refuse, what they leave behind, and that it depends on nothing but the options."""

import csv
import json
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import safetensors.torch
import torch
import torchvision

from dhpf.common import __version__
from dhpf.common import run as common_run
from dhpf.common.errors import UserError
from dhpf.data import BENCHMARKS
from dhpf.model import BACKBONES
from dhpf.model.backbone import ResNet50
from dhpf.model.gating import DynamicGating
from dhpf.weights import files as weights
from dhpf.weights.checkpoint import About, about
from tests.helpers import tiny
from tests.helpers.commands import TINY, Command, refused, run, succeed
from tests.helpers.places import SHARED

RESULTS = ("results.json", "predictions.csv.gz")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A folder with a finished training run, logs/first."""
    folder = tmp_path_factory.mktemp("home")
    succeed(folder, f"train.py {on(data)} --niter 2 --logpath first")
    return folder


def on(data: Path, benchmark: str = "pfpascal") -> str:
    return f"--benchmark {benchmark} --datapath {data} {TINY}"


BOTH = [
    "--benchmark imagenet",
    "--backbone vgg16",
    "--backbone-weights nowhere.pth",
    "--thres box",
    "--img-side 66",
    "--img-side 60",
    "--img-side large",
    "--device tpu",
    "--device xla:0",
    "--device cuda",
    "--device cuda:1",
    "--precision int8",
    "--seed -1",
    "--seed 5000000000",
    "--workers -1",
    "--workers 1.5",
    "--on-bad-pair ignore",
    "--alpha 0",
    "--alpha nan",
    "--alpha 10",
    "--logpath ../elsewhere",
    "--logpath a/../../b",
    "--voting borda",
    "--bsz 0",
    "--bsz many",
    "--bs 4",  # no abbreviations
]
TRAIN = [
    "--supervision medium",
    "--lr -0.1",
    "--lr inf",
    "--lr nan",
    "--lr fast",
    "--bsz 1",
    "--niter -1",
    "--niter 0",
    "--niter 1.5",
    "--selection 1.1",
    "--selection -1",
    "--save-every -1",
    "--resume nowhere",
    "--load model.pt",  # an option of test.py
]
TEST = ["--load nowhere.pt", "--from-predictions nowhere.csv.gz", "--alpha", "--niter 2"]


@pytest.mark.parametrize(
    "arguments",
    [f"{p} {a}" for p in ("train.py", "test.py") for a in BOTH]
    + [f"train.py {a}" for a in TRAIN]
    + [f"test.py {a}" for a in TEST],
)
def test_a_wrong_option_is_refused_by_name(data: Path, tmp_path: Path, arguments: str) -> None:
    program, option, *value = arguments.split()
    message = refused(tmp_path, f"{program} {on(data)} {option} {' '.join(value)}")
    value = [v for v in value if v.startswith("nowhere")]
    assert option in message or (value and value[0] in message)


@pytest.mark.parametrize("program", ["train.py", "test.py"])
@pytest.mark.parametrize("benchmark", ["pfpascal", "spair"])
def test_missing_data_are_named(tmp_path: Path, program: str, benchmark: str) -> None:
    message = refused(tmp_path, f"{program} {on(Path('nowhere'), benchmark)}")
    assert BENCHMARKS[benchmark].folder in message
    assert "--no-download" in message


def test_a_benchmark_without_a_training_split_is_refused(tmp_path: Path) -> None:
    tiny.make_pfwillow(tmp_path)
    assert "trn" in refused(tmp_path, f"train.py {on(tmp_path, 'pfwillow')}")


def test_one_training_pair_is_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "PF-PASCAL", tmp_path / "PF-PASCAL")
    pairs = tmp_path / "PF-PASCAL" / "trn_pairs.csv"
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[:2]))
    message = refused(tmp_path, f"train.py {on(tmp_path)}")
    assert str(pairs) in message
    assert "one pair" in message


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


def learner(backbone: str) -> dict[str, torch.Tensor]:
    cls = BACKBONES[backbone]
    return DynamicGating(cls.channels, cls.reduced_channels).state_dict()


def changed(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    names = {name.replace(".", "_"): name for name in learner("efficientnet_lite0")}
    return learner("efficientnet_lite0") | {names.get(k, k): v for k, v in tensors.items()}


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "text": lambda path: path.write_text("<html>quota exceeded</html>"),
    "folder": lambda path: path.mkdir(),
    "pickled code": lambda path: torch.save({"a": Code()}, path),
    "bare pickle": lambda path: path.write_bytes(pickle.dumps(Code())),
    "a list": lambda path: torch.save([torch.zeros(3)], path),
    "a wrapped state dict": lambda path: torch.save({"state_dict": learner("efficientnet_lite0")}, path),
    "a network": lambda path: torch.save(torch.nn.Linear(2, 2).state_dict(), path),
    "not finite": lambda path: torch.save(
        changed(reduction_ffns_3_1_running_var=torch.full((16,), torch.nan)), path
    ),
    "another shape": lambda path: torch.save(changed(gumbel_ffns_0_3_weight=torch.zeros(3, 32, 1, 1)), path),
    "a tensor too many": lambda path: torch.save(changed(extra=torch.zeros(1)), path),
    "a vast tensor": lambda path: torch.save(changed(extra=torch.zeros(1).expand(10**13)), path),
    "a sparse tensor": lambda path: torch.save(changed(extra=torch.zeros(9, 9).to_sparse()), path),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
@pytest.mark.parametrize("option", ["--load", "--backbone-weights"])
def test_a_bad_weights_file_is_refused(data: Path, tmp_path: Path, kind: str, option: str) -> None:
    path = tmp_path / "bad.pt"
    CHECKPOINTS[kind](path)
    assert str(path) in refused(tmp_path, f"test.py {on(data)} {option} {path}")
    assert not (tmp_path / "executed").exists()


def test_a_cut_off_checkpoint_is_refused(data: Path, home: Path, tmp_path: Path) -> None:
    for name in ("best_model.pt", "best_model.safetensors"):
        whole = (home / "logs" / "first" / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        assert name in refused(tmp_path, f"test.py {on(data)} --load {name}")


def test_a_checkpoint_of_another_backbone_is_refused_naming_both(data: Path, tmp_path: Path) -> None:
    torch.save(learner("resnet50"), tmp_path / "published.pt")
    message = refused(tmp_path, f"test.py {on(data)} --load published.pt --backbone efficientnet_lite0")
    assert "resnet50" in message
    assert "efficientnet_lite0" in message


@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_offline_a_resnet_says_what_to_fetch_and_where_to_put_it(
    data: Path, tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", Mock(side_effect=OSError("no network")))
    message = refused(tmp_path, f"{program} {on(data)} --backbone resnet101")
    assert "https://download.pytorch.org/models/resnet101-63fe2227.pth" in message
    assert "--backbone-weights" in message
    assert str(tmp_path / "hub" / "checkpoints") in message


def test_a_run_folder_is_never_overwritten(data: Path, home: Path) -> None:
    folder = home / "logs" / "first"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for program in ("train.py", "test.py"):
        assert "logs/first" in refused(home, f"{program} {on(data)} --logpath first")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_ctrl_c_ends_a_test_with_one_line(tmp_path: Path) -> None:
    command = Command(tmp_path, f"test.py --benchmark synthetic --logpath run {TINY}")
    while not (tmp_path / "logs" / "run").exists():
        assert command.process.is_alive(), command.end()
        time.sleep(0.01)
    command.signal(signal.SIGINT, everywhere=True)
    outcome = command.end()
    assert (outcome.code, outcome.err) == (130, "test.py: stopped by SIGINT\n")


def test_a_log_folder_that_cannot_be_made_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    assert "logs/new" in refused(tmp_path, f"train.py {on(data)} --logpath new")


def test_one_seed_gives_one_model_whatever_the_workers(data: Path, home: Path) -> None:
    arguments = f"train.py {on(data)} --niter 2".replace("--workers 0", "")
    succeed(home, f"{arguments} --workers 2 --logpath again")
    succeed(home, f"{arguments} --workers 2 --logpath other --seed 1")
    logs = home / "logs"
    for name in ("best_model.pt", "best_model.safetensors", "history.csv"):
        assert (logs / "again" / name).read_bytes() == (logs / "first" / name).read_bytes()
        assert (logs / "other" / name).read_bytes() != (logs / "first" / name).read_bytes()


def test_results_depend_on_neither_batches_nor_workers_nor_kept_codes(data: Path, home: Path) -> None:
    arguments = f"test.py {on(data)} --load logs/first/best_model.pt --alpha 0.05 0.1"
    succeed(home, f"{arguments} --bsz 1 --workers 0 --logpath single")
    succeed(home, f"{arguments} --bsz 16 --workers 2 --cache-gb 0 --logpath batch")
    for name in RESULTS:
        assert (home / "logs" / "single" / name).read_bytes() == (home / "logs" / "batch" / name).read_bytes()


def test_the_twin_gives_the_same_predictions(data: Path, home: Path) -> None:
    for name in ("best_model.pt", "best_model.safetensors"):
        succeed(home, f"test.py {on(data)} --load logs/first/{name} --logpath of-{name}")
    predictions = [
        (home / "logs" / f"of-best_model.{form}" / "predictions.csv.gz").read_bytes()
        for form in ("pt", "safetensors")
    ]
    assert predictions[0] == predictions[1]


def test_a_model_is_saved_in_the_published_form(data: Path, tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "stand-in.pth")
    succeed(
        tmp_path,
        f"train.py {on(data)} --bsz 8 --niter 1 --backbone resnet50 --backbone-weights stand-in.pth --logpath run",
    )
    published = SHARED / "golden" / "resnet50" / "learner_resnet50.pt"
    expected = (
        torch.load(published, weights_only=True)
        if published.exists()
        else DynamicGating(ResNet50.channels, ResNet50.reduced_channels).state_dict()
    )
    folder = tmp_path / "logs" / "run"
    saved = torch.load(folder / "best_model.pt", weights_only=True)
    twin = safetensors.torch.load_file(folder / "best_model.safetensors")
    assert list(saved) == list(expected)
    assert saved.keys() == twin.keys()
    for name, tensor in saved.items():
        assert (tensor.shape, tensor.dtype) == (expected[name].shape, expected[name].dtype)
        assert torch.equal(tensor, twin[name])


@pytest.mark.parametrize("benchmark", ["pfpascal", "spair"])
@pytest.mark.parametrize("supervision", ["strong", "weak"])
def test_a_model_trains_and_is_tested(data: Path, tmp_path: Path, benchmark: str, supervision: str) -> None:
    arguments = f"train.py {on(data, benchmark)} --supervision {supervision} --niter 2 --logpath trained"
    assert "epoch 2/2" in succeed(tmp_path, arguments).out
    rows = list(csv.DictReader((tmp_path / "logs" / "trained" / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[0]["trn_loss"] != rows[1]["trn_loss"]
    arguments = f"test.py {on(data, benchmark)} --load logs/trained/best_model.pt --logpath tested"
    assert "PCK" in succeed(tmp_path, arguments).out
    figures = json.loads((tmp_path / "logs" / "tested" / "results.json").read_text())["figures"]
    assert figures["n_pairs"] == 8


def test_a_broken_image_stops_the_run(broken: Path, tmp_path: Path) -> None:
    for program in ("train.py", "test.py"):
        outcome = run(tmp_path, f"{program} {on(broken)} --logpath {program}")
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert "2008_000001_cat.jpg" in outcome.err
        assert not (tmp_path / "logs" / program / "results.json").exists()


def test_skipped_pairs_are_named_and_counted(broken: Path, tmp_path: Path) -> None:
    for program in ("train.py --niter 1", "test.py"):
        succeed(tmp_path, f"{program} {on(broken)} --on-bad-pair skip --logpath {program.split()[0]}")
    with (broken / "PF-PASCAL" / "test_pairs.csv").open() as file:
        pairs = [(row["source_image"], row["target_image"]) for row in csv.DictReader(file)]
    bad = [" - ".join(f"JPEGImages/{n}" for n in pair) for pair in pairs if "2008_000001_cat.jpg" in pair]
    results = json.loads((tmp_path / "logs" / "test.py" / "results.json").read_text())
    assert results["options"]["skipped"] == bad
    assert results["figures"]["n_pairs"] == len(pairs) - len(bad)
    log = (tmp_path / "logs" / "test.py" / "log.txt").read_text()
    assert f"{len(bad)} of {len(pairs)} pairs skipped: {', '.join(bad)}" in log
    log = (tmp_path / "logs" / "train.py" / "log.txt").read_text()
    count = log.count("skipped: ")
    assert count > 0
    assert f"epoch 1: {count} pairs skipped" in log


def test_results_of_an_untrained_learner_say_its_seed(data: Path, tmp_path: Path) -> None:
    succeed(tmp_path, f"test.py {on(data)} --seed 5 --logpath untrained")
    assert json.loads((tmp_path / "logs/untrained/results.json").read_text())["options"]["seed"] == 5


def test_a_misspelt_name_is_answered_with_the_closest(data: Path, tmp_path: Path) -> None:
    assert "did you mean pfpascal?" in refused(tmp_path, "test.py --benchmark pfpascla")
    assert "did you mean resnet50?" in refused(tmp_path, "train.py --backbone resnet-50")


class WideResNet(ResNet50):
    """As many channels as a ResNet-50 at every layer, so that a learner's shapes do not tell them apart."""

    name = "wide_resnet50_2"


def test_a_checkpoint_says_which_backbone_it_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "wide_resnet50_2", WideResNet)
    state = learner("wide_resnet50_2")
    said = {"backbone": "wide_resnet50_2", "voting": "none"}
    weights.write(tmp_path / "twin.safetensors", state, said)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "options.json").write_text(json.dumps(said))
    for name in ("run/best_model.pt", "bare.pt"):
        weights.write(tmp_path / name, state)
    for name in ("twin.safetensors", "run/best_model.pt"):
        assert about(tmp_path / name, state) == About(
            "wide_resnet50_2", "none", width=ResNet50.reduced_channels
        )
        with pytest.raises(
            UserError, match=r"--backbone resnet50: the checkpoint .* belongs to wide_resnet50_2"
        ):
            about(tmp_path / name, state, "resnet50")
    guessed = about(tmp_path / "bare.pt", state)
    assert (guessed.backbone, guessed.voting) == ("resnet50", "hough")
    assert "bare.pt does not say its backbone" in guessed.note
    assert about(tmp_path / "bare.pt", state, "wide_resnet50_2").backbone == "wide_resnet50_2"
    del BACKBONES["wide_resnet50_2"]
    with pytest.raises(UserError, match="no backbone 'wide_resnet50_2'"):
        about(tmp_path / "twin.safetensors", state)


def test_versions_are_known_without_the_project_file_and_git_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def no_git(*_: object, cwd: Path, **__: object) -> None:
        asked.append(cwd)
        raise FileNotFoundError("git")

    common_run.versions.cache_clear()
    monkeypatch.setattr(common_run.subprocess, "run", no_git)
    monkeypatch.setattr(common_run, "__file__", str(tmp_path / "common" / "run.py"))
    try:
        assert common_run.versions() == common_run.versions() | {"dhpf": __version__, "commit": None}
    finally:
        common_run.versions.cache_clear()
    assert asked == [tmp_path]


PUBLISHED = "--benchmark --backbone --thres --alpha --datapath --logpath --bsz --device --seed --workers"


@pytest.mark.parametrize(
    ("program", "own"),
    [("train.py", "--supervision --lr --niter --selection --resume --save-every"), ("test.py", "--load")],
)
def test_help_names_the_options(tmp_path: Path, program: str, own: str) -> None:
    outcome = succeed(tmp_path, f"{program} --help")
    assert not [name for name in f"{PUBLISHED} {own}".split() if f"{name} " not in outcome.out]
    assert outcome.err == ""
