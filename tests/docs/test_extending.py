"""What docs/extending.md shows, run: a thing of each kind from outside the package."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dhpf.data import BENCHMARKS
from dhpf.evaluation import METRICS
from dhpf.model import BACKBONES, VOTINGS
from dhpf.programs.test import parser
from dhpf.programs.testing import evaluate
from dhpf.training import SUPERVISIONS
from tests.helpers.commands import TINY, succeed
from tests.helpers.places import ROOT
from tests.helpers.tiny import save, views, write_csv

REGISTRIES = (BENCHMARKS, METRICS, BACKBONES, VOTINGS, SUPERVISIONS)
RUN = f"--benchmark shapes --datapath . {TINY}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the data of the document's benchmark, while its things are entered."""
    folder = tmp_path_factory.mktemp("home")
    for category in ("square", "round"):
        for view in views(category):
            save(view.image, folder / "Shapes" / f"{view.name}-{category}.png")
    for split in ("trn", "val", "test"):
        rows: list[list[object]] = [["source", "target", "category", "x1", "y1", "x2", "y2"]]
        for category in ("square", "round"):
            a, b = views(category)[:2]
            ends = [f"{view.name}-{category}.png" for view in (a, b)]
            rows += [[*ends, category, *a.points[k], *b.points[k]] for k in range(3)]
        write_csv(folder / "Shapes" / f"{split}.csv", rows)
    before = [set(registry) for registry in REGISTRIES]
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), re.S | re.M)
    assert len(blocks) == 6  # how to run them, and one of each kind
    exec("\n".join(blocks[1:]), {"__name__": "my_things"})
    yield folder
    for registry, names in zip(REGISTRIES, before, strict=True):
        for name in set(registry) - names:
            del registry[name]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("strong", "--backbone shallow --supervision strong"),
        ("peaked", "--backbone shallow --supervision peaked"),
        ("transport", "--backbone shallow --supervision weak --voting transport"),
        ("transport-strong", "--backbone shallow --supervision strong --voting transport"),
    ],
)
def test_things_from_outside_train_and_are_measured(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: str
) -> None:
    monkeypatch.setattr(BENCHMARKS["shapes"], "metric", "pck")
    succeed(home, f"train.py {RUN} {arguments} --niter 1 --logpath {name}")
    run = home / "logs" / name
    for ending in ("pt", "safetensors"):  # either brings its backbone and its voting
        tested = f"test-{name}-{ending}"
        outcome = succeed(home, f"test.py {RUN} --load {run}/best_model.{ending} --logpath {tested}")
        assert "the paper's" not in outcome.out
        assert ("voting transport" in outcome.out) == ("transport" in name)
        results = json.loads((home / "logs" / tested / "results.json").read_text())
        assert results["options"]["backbone"] == "shallow"
        figures = results["figures"]["totals"]
        assert [figure["name"] for figure in figures] == ["PCK@0.1"] * 6
        assert not any(figure["paper"] for figure in figures)


def test_a_metric_from_outside_is_measured_and_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    results = evaluate(parser().parse(f"{RUN} --backbone shallow --raw --logpath of-error".split()))
    (figure,) = results["figures"]["totals"]
    assert (figure["name"], figure["unit"], figure["paper"]) == ("error", "px", False)
    assert 0 <= figure["value"] < 64
    assert f"{figure['value']:.2f} px" in (home / "logs" / "of-error" / "report.html").read_text()


def test_transport_moves_equal_weights_and_lets_gradients_through(home: Path) -> None:
    plan = VOTINGS["transport"].__closure__[0].cell_contents  # type: ignore[attr-defined]
    appearance = torch.rand(2, 16, 16, dtype=torch.float64, requires_grad=True)
    moved = plan(appearance, rounds=200)
    assert moved.sum(1).detach().numpy() == pytest.approx(np.ones((2, 16)))
    assert moved.sum(2).detach().numpy() == pytest.approx(np.ones((2, 16)), abs=1e-6)
    moved[0, 0, 0].backward()
    assert bool((appearance.grad != 0).any())
