"""The paper's tables from drawn checkpoints on tiny benchmarks."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock

from tests.helpers import tiny
from tests.helpers.commands import Command, Outcome, refused, run
from tests.helpers.models import draw_learner
from tests.helpers.places import ROOT

LITE = "efficientnet_lite0"
PUBLISHED = json.loads((ROOT / "programs" / "published.json").read_text())
CELLS = {  # of the checkpoints that are there: evaluations, figures of each, and checkpoints that are missing
    "1": (("strong", "weak"), ("pfpascal", "pfwillow"), 3, 0),
    "2": (("strong",), ("spair",), 1, 1),
    "3": (("strong", "weak"), ("caltech",), 2, 0),
    "mu": (("strong", "weak"), ("pfpascal",), 1, 14),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny benchmarks, and checkpoints in weights/."""
    folder = tmp_path_factory.mktemp("home")
    for make in tiny.MAKERS.values():
        make(folder, pairs=4)
    (folder / "weights").mkdir()
    for name in ("pfpascal-strong", "pfpascal-weak", "spair-strong"):
        torch.save(draw_learner(LITE), folder / "weights" / f"{name}-{LITE}-mu0.5.pt")
    return folder


def command(table: str, more: str = "", out: Path | str = "out", weights: Path | str = "weights") -> str:
    arguments = f"reproduce.py --table {table} --weights {weights} --out {out} --backbones {LITE}"
    return f"{arguments} --datapath . --img-side 64 --workers 0 --device cpu --no-download {more}"


def reproduce(
    home: Path, table: str, *arguments: Any, code: int = 0, **more: Any
) -> tuple[Outcome, set[str]]:
    """How the command ended, and which cells it measured."""
    cells = (home / more.get("out", "out")) / "cells"
    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/results.json")}
    outcome = run(home, command(table, *arguments, **more))
    assert outcome.code == code, outcome
    after = {path: path.stat().st_mtime_ns for path in cells.glob("*/results.json")}
    return outcome, {path.parent.name for path in after if after[path] != before.get(path)}


def read_table(home: Path, table: str, out: Path | str = "out") -> pd.DataFrame:
    return pd.read_csv(home / out / f"table-{table}.csv", keep_default_na=False, na_values=[""])


def figures(folder: Path) -> dict[str, float]:
    """The figures of a cell as the paper defines their mean."""
    totals = json.loads((folder / "results.json").read_text())["figures"]["totals"]
    return {f["name"]: f["value"] for f in totals if f["average"] == "pairs" and f["frame"] == "64x64 frame"}


def test_tables_show_what_their_cells_measured_and_share_them(home: Path) -> None:
    measured_before: set[str] = set()
    for table, (supervisions, benchmarks, count, missing) in CELLS.items():
        outcome, measured = reproduce(home, table)
        trained = "spair" if table == "2" else "pfpascal"
        cells = {f"{trained}-{s}-{LITE}-mu0.5-on-{b}" for s in supervisions for b in benchmarks}
        assert measured == cells - measured_before
        measured_before |= measured
        rows = read_table(home, table)
        whole = rows[rows.category == "all"]
        assert (whole.state == "missing").sum() == missing
        shown = whole[whole.state == "measured"]
        assert len(shown) == len(cells) * count
        assert set(shown.pairs) == {4}
        values = [
            v for c in cells for k, v in figures(home / "out" / "cells" / c).items() if k in set(shown.figure)
        ]
        assert sorted(shown.value) == pytest.approx(sorted(values))
        markdown, page = ((home / "out" / f"table-{table}.{suffix}").read_text() for suffix in ("md", "html"))
        assert markdown.strip() in outcome.out
        for value, figure in zip(shown.value, shown.figure, strict=True):
            text = f"{value:.2f}" if figure.startswith("PCK") else f"{value:.4f}"
            assert re.search(rf"\| *{text} ", markdown)
            assert f">{text}<" in page
    table_2 = read_table(home, "2").set_index(["model", "category"]).value.xs(f"strong {LITE}")
    assert len(table_2) == 19
    assert set(table_2.dropna().index) == {"cat", "dog", "all"}


def test_published_values_and_differences_stand_beside_the_measured(home: Path, tmp_path: Path) -> None:
    name = "pfpascal-strong-resnet50-mu0.5"
    torch.save(draw_learner("resnet50"), tmp_path / f"{name}.pt")
    more = "--backbones resnet50 --backbone-weights random"
    reproduce(home, "mu", more, out=tmp_path / "out", weights=tmp_path)
    row = read_table(home, "mu", tmp_path / "out").set_index(["model", "mu"]).loc[("strong resnet50", 0.5)]
    (group,) = [group for group in PUBLISHED if name in group["values"]]
    known = group["values"][name]
    assert (row.published, row.difference) == (known, pytest.approx(row.value - known, abs=1e-3))
    markdown = (tmp_path / "out" / "table-mu.md").read_text()
    assert f"{row.value:.2f} ({known:.1f}, {row.value - known:+.2f})" in markdown
    assert f"({group['values'][name.replace('0.5', '0.3')]:.1f})" in markdown  # of a model that is missing
    assert group["source"] in markdown


def test_a_killed_run_goes_on_with_the_missing_cells(home: Path, tmp_path: Path) -> None:
    first, second = (f"pfpascal-{s}-{LITE}-mu0.5-on-caltech" for s in ("strong", "weak"))
    killed = Command(home, command("3", out=tmp_path))
    killed.wait_for(tmp_path / "cells" / first / "results.json")
    killed.process.kill()
    killed.end()
    (tmp_path / "cells" / second / "results.json").unlink(missing_ok=True)
    (tmp_path / "cells" / second).mkdir(exist_ok=True)
    (tmp_path / "cells" / second / "options.json").write_text("{")  # cut off
    assert reproduce(home, "3", out=tmp_path)[1] == {second}
    reproduce(home, "3")
    pd.testing.assert_frame_equal(read_table(home, "3", tmp_path), read_table(home, "3"))


def test_a_wrong_checkpoint_fails_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / f"pfpascal-strong-{LITE}-mu0.5.pt").write_bytes(b"<html>")
    torch.save(draw_learner(LITE), tmp_path / f"pfpascal-weak-{LITE}-mu0.5.pt")
    outcome, _ = reproduce(home, "3", out=tmp_path / "out", weights=tmp_path, code=2)
    assert f"pfpascal-strong-{LITE}-mu0.5.pt" in outcome.err
    state = read_table(home, "3", tmp_path / "out").set_index("model").state
    assert set(state[f"strong {LITE}"]) == {"failed"}
    assert set(state[f"weak {LITE}"]) == {"measured"}
    assert f"pfpascal-strong-{LITE}-mu0.5" in (tmp_path / "out" / "table-3.md").read_text()


def test_cells_of_other_options_or_checkpoints_are_not_mixed_in(home: Path, tmp_path: Path) -> None:
    path = tmp_path / f"spair-strong-{LITE}-mu0.5.pt"
    torch.save(draw_learner(LITE), path)
    places = {"out": tmp_path / "out", "weights": tmp_path}
    reproduce(home, "2", **places)
    refused(home, command("2", "--img-side 80", **places), "--img-side", "--out")
    assert reproduce(home, "2", "--workers 1 --bsz 3", **places)[1] == set()
    torch.save({name: tensor + 1 for name, tensor in draw_learner(LITE).items()}, path)
    refused(home, command("2", **places), path.name)


def test_mistakes_are_named(home: Path, tmp_path: Path) -> None:
    refused(
        home, command("2", weights=tmp_path / "nowhere", out=tmp_path / "out"), "nowhere", "spair-strong-"
    )
    refused(home, command("2", "--thres=img"), "--thres")
    with FileLock(tmp_path / ".lock"):
        refused(home, command("2", out=tmp_path), str(tmp_path))
