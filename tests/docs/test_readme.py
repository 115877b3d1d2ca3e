"""Every command of the README and of the documents in `LEFT` runs as it stands, on tiny benchmarks, shortly.

The commands of a document run one after another in one folder, as a reader would type them. What they leave must be
there; reports and their pictures have tests of their own.
"""

import contextlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from dhpf.data import synthetic
from dhpf.model import BACKBONES
from dhpf.model.gating import DynamicGating
from dhpf.weights import files as weights_file
from dhpf.weights import released
from dhpf.weights.imagenet import RESNETS
from tests.helpers import tiny, tiny_own
from tests.helpers.commands import run
from tests.helpers.places import ROOT

LITE = "efficientnet_lite0"
SMALL = "--img-side 64 --device cpu"
SHORT = {  # what is appended, for time and because there are no ImageNet weights of ResNets here
    "train.py": f"--niter 1 --backbone {LITE} --workers 0 --no-download {SMALL}",
    "test.py": f"--workers 0 --no-download {SMALL}",
    "match.py": SMALL,
    "search.py": f"--pairs 2 --max-layers 2 --beam 1 --workers 0 --no-download {SMALL}",
    "reproduce.py": f"--backbones {LITE} --workers 0 --no-download {SMALL}",
    "benchmarks/speed.py": f"--backbone {LITE} --img-side 64 --repeats 1 --no-memory",
    "-m": "",
}
LEFT = {
    "README.md": "logs/pfpascal-strong/history.csv logs/pfpascal-strong/best_model.safetensors "
    "logs/spair-test/results.json logs/spair-test/predictions.csv.gz matches/collins-hopper.csv "
    "matches/collins-hopper-matches.png logs/tables/table-1.md logs/layers/layers.json",
    "docs/own-images.md": "matches/collins-hopper.json matches/collins-hopper-warped.png gridded/collins-hopper.csv "
    "portraits.html matches/spair-test-3.csv",
    "docs/lists.md": "logs/cats-and-dogs/results.json logs/listed/results.json",
    "docs/own-data.md": "logs/animals-val/results.json logs/animals-new/results.json portraits/pairs.csv",
    "docs/search.md": "logs/layers/layers.json logs/static/best_model.pt logs/static-test/results.json",
    "docs/tables.md": "logs/tables/table-1.csv logs/tables/table-3.md logs/tables/table-mu.html",
}


def blocks(document: str, language: str) -> Iterator[str]:
    """Code blocks of a document."""
    for _, block in re.findall(rf"^```({language})\n(.*?)^```", (ROOT / document).read_text(), re.S | re.M):
        yield block


def shown(document: str) -> Iterator[list[str]]:
    """Commands of a document, and instead of `make` what it would run."""
    for block in blocks(document, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                made = subprocess.run([*words, "-n"], cwd=ROOT, check=True, capture_output=True, text=True)
                programs = [shlex.split(step) for step in made.stdout.splitlines()]
                programs = [step for step in programs if step[0] == ".venv/bin/python"]
                assert programs, line
                yield from (["python", *step[1:]] for step in programs)
            elif words:
                yield words


def drawn_learner(name: str, path: Path) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name]
    weights_file.write(path, DynamicGating(backbone.channels, backbone.reduced_channels).state_dict())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "Datasets_DHPF"
    for make in tiny.MAKERS.values():
        make(root, pairs=4)
    return root


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What would be downloaded: backbone weights in `hub`, released models in `cache`, trained ones in `weights`."""
    folder = tmp_path_factory.mktemp("stand-ins")
    (folder / "cache").mkdir()
    for name in released.FILES:
        drawn_learner("resnet101", folder / "cache" / f"{name}.pt")
    for place in ("weights", "cache"):
        for model in ("pfpascal-strong", "pfpascal-weak", "spair-strong"):
            drawn_learner(LITE, folder / place / f"{model}-{LITE}-mu0.5.pt")
    drawn_learner("resnet101", folder / "cache" / "pfpascal-strong-resnet101-mu0.7.pt")
    weights = folder / "hub" / "checkpoints" / Path(RESNETS["resnet101"]).name
    weights.parent.mkdir(parents=True)
    state = torchvision.models.resnet101(weights=None).state_dict()
    for name in (name for name in state if name.endswith("bn3.weight")):
        state[name] *= 0.2  # or the drawn network's maps would grow beyond measure
    torch.save(state, weights)
    return folder


@pytest.fixture
def home(tmp_path: Path, data: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like a clone, beside the data and the stand-ins; of the synthetic pairs there are few."""
    monkeypatch.setattr(synthetic, "LENGTHS", {"trn": 4, "val": 2, "test": 2})
    home = tmp_path / "home"
    home.mkdir()
    for link, target in {
        tmp_path / data.name: data,
        tmp_path / "cache": stand_ins / "cache",
        home / "docs": ROOT / "docs",
        home / "hubconf.py": ROOT / "hubconf.py",
        home / "weights": stand_ins / "weights",
        home / "hub": stand_ins / "hub",
    }.items():
        link.symlink_to(target)
    tiny_own.make_animals(tmp_path / "shared" / "data")
    return home


@pytest.mark.parametrize("document", LEFT)
def test_commands_run(document: str, home: Path) -> None:
    cache = {"DHPF_CACHE": str(home.parent / "cache")}
    commands = list(shown(document))
    assert commands
    for words in commands:
        if words[:2] == ["pip", "install"]:  # all that is required is there already
            pip = [sys.executable, "-m", *words, "--no-index", "--dry-run", "--quiet"]
            subprocess.run(pip, cwd=ROOT, check=True)
        elif words[0] == "python" and words[1:] != ["-m", "pytest"]:
            arguments = shlex.join(words[1:]).replace("'~/.cache/dhpf'", cache["DHPF_CACHE"])
            short = SHORT[words[1]].replace("--niter 1", f"--niter {1 + ('--resume' in words)}")
            # The tiny lists are not the published ones, which verify finds wrong.
            code = 1 if "dhpf.data.verify" in words else 0
            assert run(home, f"{arguments} {short}", cache).code == code, arguments
        elif words[0] in ("mkdir", "cp"):
            subprocess.run(words, cwd=home, check=True)
        else:
            assert words == ["python", "-m", "pytest"], words  # this very command
    assert [name for name in LEFT[document].split() if not (home / name).is_file()] == []
    if document == "README.md":
        history = (home / "logs" / "pfpascal-strong" / "history.csv").read_text()
        assert [line.split(",")[0] for line in history.splitlines()] == ["epoch", "1", "2"]  # it was resumed


@pytest.mark.parametrize("document", ["README.md", "docs/own-images.md"])
def test_python_runs(document: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DHPF_CACHE", str(home.parent / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(home))
    for block in blocks(document, "python"):
        names: dict[str, object] = {}
        with contextlib.chdir(home):
            exec(block, names)
        assert len(names["found"].points) == 2  # type: ignore[attr-defined]


def anchors(document: Path) -> set[str]:
    """What a link can name in a document: its headings."""
    headings = re.findall(r"^#+ (.*)", document.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_documents_name_files_that_exist() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"):
        links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", document.read_text())
        assert links or document.parent.name != ROOT.name
        for path, anchor in links:
            place = document.parent / path if path else document
            assert place.exists(), f"{document.name}: {path}"
            assert not anchor or anchor in anchors(place), f"{document.name}: {path}#{anchor}"
