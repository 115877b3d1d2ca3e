"""compare.py: common pairs, right differences, intervals and p, in every format; hostile names stay in their cells."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dhpf.common.errors import UserError
from dhpf.evaluation.comparison import align, compare
from dhpf.evaluation.figures import measure, score
from dhpf.evaluation.intervals import mcnemar
from tests.helpers.commands import Outcome, run, succeed
from tests.helpers.pages import Page
from tests.helpers.places import ROOT
from tests.helpers.tables import random_pairs, table_of

ON = "--img-side 64 --workers 0 --no-download"


def moved(table: pd.DataFrame, seed: int = 1) -> pd.DataFrame:
    """The same pairs with other predictions."""
    noise = np.random.default_rng(seed).normal(0, 1, (len(table), 2))
    values = (table[["predicted_x", "predicted_y"]] + noise).astype("float32")
    return table.assign(predicted_x=values.predicted_x, predicted_y=values.predicted_y)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    pairs = random_pairs(2, 30)
    for i, (sample, _) in enumerate(pairs):
        sample |= {"category": "cat" if i % 3 else "dog", "occlusion": i % 4 - 1}
    return table_of(pairs)


def test_differences_have_the_intervals_of_differences(table: pd.DataFrame) -> None:
    other = moved(table)
    found = compare({"a": table, "b": other}, (0.05, 0.1), "auto")
    rows = {(row["run"], row["name"], row["average"]): row for row in found.figures.to_dict("records")}
    assert len(rows) == 2 * 2 * 3
    for name, own in (("a", table), ("b", other)):
        for figure in score(own, (0.05, 0.1))["totals"]:
            if figure["frame"] == "20x20 frame":
                row = rows[name, figure["name"], figure["average"]]
                assert row["value"] == pytest.approx(figure["value"])
                for kind in ("interval", "interval_by_image"):
                    assert row[kind] == pytest.approx(figure[kind])
    before, after = (measure(own, (0.1,))[0][1].to_numpy() for own in (table, other))
    row = rows["b", "PCK@0.1", "pairs"]
    assert row["difference"] == pytest.approx(after.mean() - before.mean())
    low, high = row["difference_interval"]
    assert low < row["difference"] < high
    a, b = (measure(own, (0.1,))[1][1].to_numpy() > 0 for own in (table, other))
    row = rows["b", "PCK@0.1", "key-points"]
    only = int((a & ~b).sum()), int((b & ~a).sum())
    assert (row["only_first"], row["only_here"], row["p"]) == (*only, mcnemar(*only))
    assert np.isnan(rows["b", "PCK@0.1", "pairs"]["p"])


def test_other_lists_are_reduced_to_the_common_pairs(table: pd.DataFrame) -> None:
    """Under other numbers, in another order, with pairs that the other has not."""
    shuffled = moved(table)
    shuffled = shuffled[shuffled.pair > 3].assign(pair=100 - shuffled.pair).sort_values(["pair", "point"])
    aligned, note = align({"a": table[table.pair < 25], "b": shuffled})
    assert note == "on the 21 pairs that all have (a of 25, b of 26)"
    for name, own in (("a", table), ("b", moved(table))):
        pd.testing.assert_frame_equal(aligned[name], own[own.pair.between(4, 24)].reset_index(drop=True))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda table: table.assign(img_side=40), "other: .*img_side"),
        (lambda table: table.assign(benchmark="spair"), "other: .*benchmark"),
        (lambda table: table.assign(source="z" + table.source), "first, other: "),
        (lambda table: table.assign(target_x=table.target_x + 1), "other: "),
        (lambda table: table[table.pair == 4], "first, other: "),  # a pair without key-points
    ],
)
def test_what_does_not_compare_is_refused(table: pd.DataFrame, change: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        compare({"first": table, "other": change(table)}, (0.1,), "auto")


# The program


@pytest.fixture(scope="module")
def home(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in logs/, and one of them as another's predictions."""
    home = tmp_path_factory.mktemp("home")
    (home / "Datasets_DHPF").symlink_to(data)
    on = f"test.py --benchmark spair --datapath {data} --device cpu {ON}"
    succeed(home, f"{on} --raw --logpath raw")
    succeed(home, f"{on} --raw --layers 2,3 --voting none --thres img --logpath few")
    table = pd.read_csv(home / "logs/raw/predictions.csv.gz")
    lines = table[["pair", "point"]].assign(
        x=table.predicted_x / 64 * table.target_width, y=table.predicted_y / 64 * table.target_height
    )
    lines.to_csv(home / "theirs.csv", index=False)
    return home


def compared(home: Path, arguments: str) -> Outcome:
    return run(home, f"compare.py {arguments} --datapath Datasets_DHPF --workers 0 --no-download")


def test_runs_and_predictions_of_others_are_compared(home: Path) -> None:
    out = compared(home, "logs/raw theirs.csv --benchmark spair --img-side 64").out
    first, *lines = out.splitlines()
    assert first == "Comparison of raw, theirs.csv: all on the same 8 pairs"
    rows = [line for line in lines if line.startswith("theirs.csv") and " key-points " in line]
    assert re.search(r" \+0\.00 +\[0\.00, 0\.00\] +\[0\.00, 0\.00\] +0 +0 +1$", rows[1])
    assert "PCK@0.1 by viewpoint" in out
    assert "independent" in out


def test_other_thresholds_are_refused_unless_one_is_said(home: Path) -> None:
    outcome = compared(home, "logs/raw logs/few")
    assert outcome.code == 2
    assert "--thres" in outcome.err
    out = compared(home, "logs/raw logs/few --thres img --alpha 0.05 0.1").out
    assert "threshold img" in out
    assert "PCK@0.05" in out
    layers = out.split("select each layer")[1].splitlines()
    assert layers[1].split() == ["Layer", "raw", "few"]
    assert [line.split()[1:] for line in layers[2:5]] == [["1.000", "0.000"]] * 2 + [["1.000", "1.000"]]


def test_a_page_shows_the_pairs_that_changed_most_twice(home: Path) -> None:
    out = compared(home, "logs/raw logs/few --thres img --format html --out out.html")
    assert out.out == "written: out.html\n"
    page = Page((home / "out.html").read_text())
    captions = [re.sub(r"PCK.*", "", caption) for caption in page.text("figcaption")]
    assert captions
    assert captions[::2] == [caption.replace("few: ", "raw: ") for caption in captions[1::2]]
    gone = "compare.py logs/raw logs/few --thres img --format html --datapath nowhere --no-download"
    assert not Page(run(home, gone).out).all("img")


def test_the_document_runs(home: Path, tmp_path: Path) -> None:
    for name, run_of in (("before", "raw"), ("after", "raw")):
        shutil.copytree(home / "logs" / run_of, tmp_path / "logs" / name)
    shutil.copy(home / "theirs.csv", tmp_path)
    (tmp_path / "Datasets_DHPF").symlink_to(home / "Datasets_DHPF")
    text = (ROOT / "docs" / "comparing.md").read_text()
    commands = re.findall(r"^python (compare.py .*)", text, re.M)
    assert len(commands) == 3
    for command in commands:
        arguments = command.removeprefix("compare.py ").replace("pfpascal", "spair --img-side 64")
        assert compared(tmp_path, arguments).code == 0, command
    assert (tmp_path / "compared.html").is_file()
