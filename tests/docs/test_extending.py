"""What docs/extending.md shows, run: a thing of each kind from outside the package."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dhpf.data import BENCHMARKS
from dhpf.evaluation import METRICS
from dhpf.model import BACKBONES, DECODERS, VOTINGS
from dhpf.training import SUPERVISIONS
from tests.helpers.commands import TINY, succeed
from tests.helpers.places import ROOT
from tests.helpers.tiny import save, views, write_csv

REGISTRIES = (BENCHMARKS, METRICS, BACKBONES, VOTINGS, DECODERS, SUPERVISIONS)
RUN = f"--benchmark shapes --datapath . --backbone shallow {TINY}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of the document's benchmark."""
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
    return folder


@pytest.fixture(scope="module", autouse=True)
def document() -> Iterator[dict[str, Any]]:
    """The names that the document's code defines, while its things are in the registries."""
    before = [set(registry) for registry in REGISTRIES]
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), re.S | re.M)
    assert len(blocks) == 7  # how to run them, and one of each kind
    names: dict[str, Any] = {"__name__": "my_things"}
    exec("\n".join(blocks[1:]), names)
    yield names
    for registry, known in zip(REGISTRIES, before, strict=True):
        for name in set(registry) - known:
            del registry[name]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("peaked", "--supervision peaked"),
        ("transport", "--supervision weak --voting transport"),
        ("transport-strong", "--supervision strong --voting transport --decoder plateau"),
    ],
)
def test_things_from_outside_train_and_are_measured(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: str
) -> None:
    monkeypatch.setattr(BENCHMARKS["shapes"], "metric", "pck")
    succeed(home, f"train.py {RUN} {arguments} --niter 1 --logpath {name}")
    for ending in ("pt", "safetensors"):  # either brings its backbone and its voting
        tested = f"test-{name}-{ending}"
        options = RUN.replace("--backbone shallow", f"--load logs/{name}/best_model.{ending}")
        succeed(home, f"test.py {options} --logpath {tested}")
        results = json.loads((home / "logs" / tested / "results.json").read_text())
        assert results["options"]["backbone"] == "shallow"
        assert ("voting transport" in results["options"].get("ablation", "")) == ("transport" in name)
        assert (results["options"].get("decoder") == "plateau") == ("plateau" in arguments)
        figures = results["figures"]["totals"]
        assert [figure["name"] for figure in figures] == ["PCK@0.1"] * 6
        assert not any(figure["paper"] for figure in figures)


def test_a_metric_from_outside_is_measured_and_reported(home: Path) -> None:
    succeed(home, f"test.py {RUN} --raw --logpath of-error", reports=True)
    results = json.loads((home / "logs" / "of-error" / "results.json").read_text())
    (figure,) = results["figures"]["totals"]
    assert (figure["name"], figure["unit"], figure["paper"]) == ("error", "px", False)
    assert 0 <= figure["value"] < 64
    assert f"{figure['value']:.2f} px" in (home / "logs" / "of-error" / "report.html").read_text()


@pytest.mark.slow
def test_the_program_of_the_document_runs_where_processes_are_spawned(home: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), re.S | re.M)
    spawned = "    import multiprocessing\n\n    multiprocessing.set_start_method('spawn')\n    main()"
    (home / "mine.py").write_text(blocks[0].replace("    main()", spawned))
    (home / "my_things.py").write_text("\n".join(blocks[1:]))
    arguments = f"{RUN} --niter 1 --workers 1 --logpath spawned".split()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "mine.py", *arguments]
    ended = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=200)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False), ended.stderr
    assert (home / "logs" / "spawned" / "best_model.safetensors").is_file()
