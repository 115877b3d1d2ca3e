"""The files of an evaluation: what is written is read to the last bit, and only what is sound is read."""

import gzip
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dhpf.common.errors import UserError
from dhpf.evaluation import results
from dhpf.evaluation.figures import score
from dhpf.evaluation.predictions import read_predictions, write_predictions
from dhpf.evaluation.results import rescore, save_results
from tests.helpers.tables import make_pair, random_pairs, table_of

ONE_FOLDER = settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def table() -> pd.DataFrame:
    return table_of(random_pairs(5, 10))


def text_of(table: pd.DataFrame, path: Path) -> bytes:
    write_predictions(path, table)
    return gzip.decompress(path.read_bytes())


@ONE_FOLDER
@given(st.data())
def test_a_written_table_is_read_to_the_last_bit(tmp_path: Path, data: st.DataObject) -> None:
    points = data.draw(
        arrays(np.float32, (4, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
    )
    name = data.draw(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1) | st.just("NA"))
    pairs = [
        make_pair(
            3, points, points[::-1].copy(), [*points[:3], None], category=name, points=f"1\tNA\t{name}"
        ),
        make_pair(7, [], [], []),
    ]
    table = table_of(pairs)
    write_predictions(tmp_path / "table.csv.gz", table)
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "table.csv.gz"), table, check_exact=True)
    pandas = table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
    assert gzip.decompress((tmp_path / "table.csv.gz").read_bytes()).decode() == pandas


def test_a_table_without_names_of_points_is_read(tmp_path: Path, table: pd.DataFrame) -> None:
    older = table.drop(columns="point_name")
    write_predictions(tmp_path / "older.csv.gz", older)
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "older.csv.gz"), table)


def test_rescoring_gives_the_figures_of_the_run(tmp_path: Path, table: pd.DataFrame) -> None:
    saved = save_results(tmp_path, table, (0.05, 0.1), "auto", {"benchmark": "spair"})
    assert rescore(tmp_path / results.PREDICTIONS, (0.05, 0.1)) == saved["figures"]
    assert rescore(tmp_path / results.PREDICTIONS, (0.2,), "bbox-kp") == score(table, (0.2,), "bbox-kp")
    (tmp_path / "plain.csv").write_bytes(gzip.decompress((tmp_path / results.PREDICTIONS).read_bytes()))
    assert rescore(tmp_path / "plain.csv", (0.05, 0.1)) == saved["figures"]


def test_results_hold_options_versions_checkpoint_and_figures(tmp_path: Path, table: pd.DataFrame) -> None:
    checkpoint = tmp_path / "best_model.pt"
    checkpoint.write_bytes(b"weights")
    saved = save_results(tmp_path, table, (0.1,), "img", {"backbone": "resnet50"}, checkpoint)
    text = (tmp_path / results.RESULTS).read_text()
    assert json.loads(text) == saved
    assert saved["options"] == {"backbone": "resnet50", "alpha": [0.1], "thres": "img"}
    assert saved["checkpoint"] == {"file": "best_model.pt", "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert set(saved["versions"]) == {"python", "torch", "dhpf", "commit"}
    assert saved["figures"]["totals"][0]["definition"]
    assert str(tmp_path) not in text


def test_points_of_pairs_with_a_threshold_of_zero_are_in_no_figure(tmp_path: Path) -> None:
    places = np.array([[5.0, 5.0], [30.0, 30.0]])
    pairs = [
        make_pair(k, places, places, list(places), points=name)
        for k, name in enumerate(("ear\teye", "tail\tpaw"))
    ]
    table = table_of(pairs)
    extent = ["bbox_width", "bbox_height"]
    table.loc[table.pair == 1, extent] = 0.0
    table.loc[table.pair == 1, "target_x"] = table.loc[table.pair == 1, "target_y"] = 5.0
    figures = save_results(tmp_path, table, (0.1,), "bbox", {})["figures"]
    assert {figure["n_points"] for figure in figures["totals"]} == {2}
    assert (
        json.loads((tmp_path / results.RESULTS).read_text(), parse_constant=pytest.fail)["figures"] == figures
    )


def test_a_write_that_fails_leaves_the_previous_file(
    tmp_path: Path, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / results.PREDICTIONS
    before = text_of(table, path)

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(UserError, match=r"predictions\.csv\.gz: .*No space"):
        write_predictions(path, table.iloc[:3])
    assert list(tmp_path.iterdir()) == [path]
    assert gzip.decompress(path.read_bytes()) == before


def edited(column: str, value: Any, row: int = 2) -> Any:
    def edit(table: pd.DataFrame) -> pd.DataFrame:
        changed = table.astype({column: object})
        changed.loc[row, column] = value
        return changed

    return edit


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda table: table.drop(columns="target_x"), ".*target_x"),
        (lambda table: table.iloc[:0], ": "),
        (lambda table: table.drop(index=1), ", line 3: "),
        (lambda table: pd.concat([table, table]), ", line "),
        (edited("bbox_width", 3), ", line 4: "),
        (edited("img_side", "240px"), ": .*240px"),
        (edited("target_x", ""), ", line 4: "),
        (edited("predicted_x", "inf"), ", line 4: "),
        (lambda table: table.assign(target_width=0), ", line 2: "),
        (lambda table: table.assign(layer_sel="1 x"), ": "),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, table: pd.DataFrame, edit: Any, line: str) -> None:
    write_predictions(tmp_path / "table.csv.gz", edit(table))
    with pytest.raises(UserError, match=f"table.csv.gz{line}"):
        rescore(tmp_path / "table.csv.gz", (0.1,))


def test_what_is_no_table_is_refused(tmp_path: Path, table: pd.DataFrame) -> None:
    good, bad = tmp_path / "good.csv.gz", tmp_path / "bad.csv.gz"
    text = text_of(table, good)
    packed = good.read_bytes()
    damaged = packed[:60] + b"garbage" + packed[67:]
    for content in (b"", b"\x1f\x8b", packed[:-9], packed[:300], damaged, b"\x89PNG\0\xff", text[:20]):
        bad.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.csv\.gz"):
            read_predictions(bad)
    for missing in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UserError, match=re.escape(str(missing))):
            read_predictions(missing)
