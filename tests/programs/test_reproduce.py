"""The paper's tables from stand-in checkpoints on tiny benchmarks."""

import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dhpf.common.errors import UserError
from dhpf.common.run import lock_folder
from dhpf.programs import reproduce
from dhpf.programs import tables as published
from dhpf.weights import checkpoint, released
from dhpf.weights import files as weights_file
from tests.helpers import commands, tiny
from tests.helpers.places import SHARED

TRAINED = ("pfpascal-strong", "pfpascal-weak", "spair-strong")
LITE = "efficientnet_lite0"


@pytest.fixture(scope="module")
def learner() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return checkpoint.build_model(LITE, None).learner.state_dict()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for make in tiny.MAKERS.values():
        make(root, pairs=4)
    return root


@pytest.fixture
def weights(tmp_path: Path, learner: dict[str, torch.Tensor]) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in TRAINED:
        weights_file.write(folder / f"{name}-{LITE}-mu0.5.pt", learner)
    return folder


@pytest.fixture
def tables(tmp_path: Path, data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs reproduce.py; what it evaluated is in `tables.evaluated`. Reports have tests of their own."""
    evaluate = published.evaluate
    monkeypatch.setitem(evaluate.__globals__, "report_test", lambda *_: None)
    monkeypatch.setattr(published, "evaluate", lambda o: run.evaluated.append(o.logpath) or evaluate(o))

    def run(table: str, *more: str, out: str = "out") -> pd.DataFrame:
        run.evaluated = []
        arguments = f"--table {table} --weights {weights} --out {tmp_path}/{out} --backbones {LITE}"
        arguments += f" --datapath {data} --img-side 64 --workers 0 --device cpu --no-download"
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments.split(), *more])
        reproduce.main.__wrapped__(None)
        return pd.read_csv(tmp_path / out / f"table-{table}.csv", keep_default_na=False, na_values=[""])

    run.evaluated = []
    return run


def totals(folder: Path) -> dict[str, float]:
    """The figures of a cell that the paper's definition of a mean gives."""
    figures = json.loads((folder / "results.json").read_text())["figures"]["totals"]
    return {f["name"]: f["value"] for f in figures if f["average"] == "pairs" and f["frame"] == "64x64 frame"}


@pytest.mark.parametrize(
    ("table", "cells", "figures", "missing"),
    [("1", 4, 3, 0), ("2", 1, 1, 1), ("3", 2, 2, 0), ("mu", 2, 1, 14)],
)
def test_a_table_shows_what_its_cells_measured(
    table: str, cells: int, figures: int, missing: int, tables: Any, tmp_path: Path, capsys: Any
) -> None:
    found = tables(table)
    assert len(tables.evaluated) == cells
    whole = found[found.category == "all"]
    measured = whole[whole.state == "measured"]
    assert len(measured) == cells * figures
    assert (whole.state == "missing").sum() == missing
    folders = [Path(name) for name in tables.evaluated]
    assert sorted(measured.value) == pytest.approx(
        sorted(v for f in folders for k, v in totals(f).items() if k in set(measured.figure))
    )
    assert set(measured.pairs) == {4}
    markdown = (tmp_path / "out" / f"table-{table}.md").read_text()
    assert capsys.readouterr().out.endswith(markdown)
    page = (tmp_path / "out" / f"table-{table}.html").read_text()
    for value, figure in zip(measured.value, measured.figure, strict=True):
        text = f"{value:.2f}" if figure.startswith("PCK") else f"{value:.4f}"
        assert f"| {text} |" in markdown
        assert f">{text}<" in page
    assert markdown.count("Missing: ") == missing


def test_categories_of_table_2_are_their_own_figures(tables: Any) -> None:
    found = tables("2").set_index(["model", "category"]).value.xs(f"strong {LITE}")
    own = json.loads((Path(tables.evaluated[0]) / "results.json").read_text())["figures"]["categories"]
    assert len(found) == 19
    for category in ("cat", "dog"):
        at = next(f["value"] for f in own[category] if f["name"] == "PCK@0.1")
        assert found[category] == pytest.approx(at)
    assert found["all"] == pytest.approx((found["cat"] + found["dog"]) / 2)
    assert found.drop(["cat", "dog", "all"]).isna().all()


def test_differences_from_published_values(
    tables: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {f"pfpascal-strong-{LITE}-mu0.5": 50.0, f"pfpascal-weak-{LITE}-mu0.3": 40.0}
    groups = [{"source": "a book", "benchmark": "pfpascal", "figure": "PCK@0.1", "values": values}]
    monkeypatch.setattr(published, "PUBLISHED", groups)
    found = tables("mu").set_index(["model", "mu"])
    strong = found.loc[(f"strong {LITE}", 0.5)]
    assert strong.difference == pytest.approx(strong.value - 50, abs=1e-3)
    assert pd.isna(found.published[(f"weak {LITE}", 0.5)])
    markdown = (tmp_path / "out" / "table-mu.md").read_text()
    assert f"| {strong.value:.2f} (50.0, {strong.value - 50:+.2f}) |" in markdown
    assert "| missing (40.0) |" in markdown
    assert "Source: a book." in markdown


def test_tables_share_their_cells(tables: Any) -> None:
    by_mu = tables("mu").query("state == 'measured'")
    tables("1")
    assert {Path(name).name.rpartition("-")[2] for name in tables.evaluated} == {"pfwillow"}
    again = tables("mu").query("state == 'measured'")
    assert tables.evaluated == []
    pd.testing.assert_frame_equal(by_mu, again)


def test_a_killed_run_goes_on_with_the_missing_cells(
    tables: Any, tmp_path: Path, data: Path, weights: Path
) -> None:
    out = tmp_path / "out"
    arguments = (
        f"--table 3 --weights {weights} --backbones {LITE} --datapath {data} --img-side 64 --workers 0"
    )
    command = commands.Command(tmp_path, f"reproduce.py {arguments} --device cpu --no-download --out {out}")
    first, second = (out / "cells" / f"pfpascal-{s}-{LITE}-mu0.5-on-caltech" for s in ("strong", "weak"))
    deadline = time.monotonic() + commands.SECONDS
    while not (first / "results.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    command.process.kill()
    assert command.end().code == -signal.SIGKILL
    assert not (second / "results.json").exists()
    second.mkdir(exist_ok=True)  # as where it was killed a little later
    (second / "options.json").write_text("{")
    written = (first / "results.json").stat().st_mtime_ns

    continued = tables("3")
    assert tables.evaluated == [str(second)]
    assert (first / "results.json").stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(continued, tables("3", out="whole"))
    assert len(tables.evaluated) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"reduction_ffns.0.0.weight": torch.zeros(8, 64, 1, 1)}, "not a checkpoint of"),
        (b"<html>", "it is a web page"),
    ],
)
def test_a_wrong_checkpoint_fails_alone(
    content: Any, reason: str, tables: Any, weights: Path, tmp_path: Path
) -> None:
    path = weights / f"pfpascal-strong-{LITE}-mu0.5.pt"
    path.write_bytes(content) if isinstance(content, bytes) else weights_file.write(path, content)
    with pytest.raises(UserError, match=f"1 of 2 cells failed.*{reason}"):
        tables("3")
    found = pd.read_csv(tmp_path / "out" / "table-3.csv").set_index("model").state
    assert set(found[f"strong {LITE}"]) == {"failed"}
    assert set(found[f"weak {LITE}"]) == {"measured"}
    assert reason in (tmp_path / "out" / "table-3.md").read_text()


def test_cells_of_other_options_or_checkpoints_are_not_mixed_in(
    tables: Any, weights: Path, learner: Any
) -> None:
    tables("2")
    with pytest.raises(UserError, match=r"measured with another --img-side: .*--out"):
        tables("2", "--img-side", "80")
    tables("2", "--workers", "1", "--bsz", "3")
    assert tables.evaluated == []
    other = {name: tensor + 1 for name, tensor in learner.items()}
    weights_file.write(weights / f"spair-strong-{LITE}-mu0.5.pt", other)
    with pytest.raises(UserError, match=r"measured with another \S*/spair-strong\S*\.pt: "):
        tables("2")


def test_mistakes_are_named(
    tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(UserError, match=r"--weights .*nowhere.*spair-strong-.*docs/tables\.md"):
        tables("2", "--weights", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--thres: the table decides this"):
        tables("2", "--thres=img")
    with pytest.raises(SystemExit, match="2"):
        tables("2", "--wrokers", "2")
    assert "--wrokers" in capsys.readouterr().err
    lock = lock_folder(tmp_path / "out")
    with pytest.raises(UserError, match="/out: another process is writing in this folder"):
        tables("2")
    lock.release()
    assert tables.evaluated == []


def test_published_values_are_those_of_the_readme() -> None:
    readme = SHARED / "seed-readme.md"
    if not readme.exists():
        pytest.skip("the published README is not beside the checkout")
    expected = {}
    for line in readme.read_text().splitlines():
        if row := re.match(r"\| +\[(weak|strong) \(res(\d+)\)\]\(\S+\) +\|(.*)\|", line):
            numbers = [float(text) for text in row[3].split("|")]
            mus = [f"{mu / 10:g}" for mu in range(3, 11)] if len(numbers) == 8 else ["0.5"]
            trained = "pfpascal" if len(numbers) == 8 else "spair"
            for mu, value in zip(mus, numbers, strict=True):
                expected[f"{trained}-{row[1]}-resnet{row[2]}-mu{mu}"] = value
    stored = {name: value for group in published.PUBLISHED for name, value in group["values"].items()}
    assert len(stored) == 34
    assert stored == expected
    assert all(group["source"] for group in published.PUBLISHED)
    for drive_id in (*released.FILES.values(), *released.FOLDERS.values()):
        assert drive_id in readme.read_text()
