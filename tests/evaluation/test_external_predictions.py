"""Predictions of other methods, in files and asked of callables, give the figures that ours would give."""

import codecs
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dhpf import evaluate
from dhpf.common.errors import UserError
from dhpf.data import open_benchmark
from dhpf.data.benchmark import Pair
from dhpf.data.pair_table import COLUMNS
from dhpf.data.pfwillow import PFWillow
from dhpf.data.spair import SPair
from dhpf.evaluation.external_predictions import external_rows, find_pairs, read_external
from dhpf.evaluation.figures import measure, score
from dhpf.evaluation.prediction_frames import checked_frame, from_image
from dhpf.evaluation.predictions import read_predictions, table_of
from tests.helpers import tiny
from tests.helpers.commands import refused, succeed
from tests.helpers.places import ROOT, SHARED

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="no benchmark data beside the repository")
ON = "test.py --benchmark pfpascal --img-side 64 --workers 0 --device cpu --no-download"


@pytest.fixture(scope="module")
def ours(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of our own."""
    home = tmp_path_factory.mktemp("ours")
    succeed(home, f"{ON} --datapath {data} --raw --logpath ours")
    return home / "logs" / "ours"


@pytest.fixture(scope="module")
def own(ours: Path) -> pd.DataFrame:
    """Its table, without what others do not say."""
    return read_predictions(ours / "predictions.csv.gz").assign(layer_sel="")


@pytest.fixture(scope="module")
def lines(own: pd.DataFrame) -> pd.DataFrame:
    """Its predictions as others write them: in pixels of the stored target image."""
    table = own.astype({"predicted_x": float, "predicted_y": float})
    return pd.DataFrame({
        "pair": table.pair, "source": table.source, "target": table.target, "point": table.point,
        "x": table.predicted_x / 64 * table.target_width, "y": table.predicted_y / 64 * table.target_height,
        "confidence": 0.5,
    })  # fmt: skip


@pytest.fixture
def read(data: Path, tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """The table that is made of a file's content."""
    benchmark = open_benchmark("pfpascal", data, "test", img_side=64)

    def read(content: bytes, frame: str = "image") -> pd.DataFrame:
        (tmp_path / "theirs").write_bytes(content)
        predictions = read_external(tmp_path / "theirs", benchmark)
        return table_of(external_rows(predictions, benchmark, frame)[0], list(benchmark.labels))

    return read


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def csv(lines: pd.DataFrame) -> bytes:
    return lines.to_csv(index=False).encode()


def named(lines: pd.DataFrame) -> pd.DataFrame:
    """Names as somebody else's machine has them, nothing in order."""
    mixed = lines.drop(columns=["pair", "confidence"]).sample(frac=1, random_state=0)
    return mixed.assign(
        source=r"C:\data" + "\\" + mixed.source.str.replace("/", "\\"), target="/home/me/x/" + mixed.target
    )


FORMS = {
    "by number": csv,
    "by name": lambda lines: csv(named(lines)),
    "by last part": lambda lines: csv(named(lines).assign(source=lines.source.str.rpartition("/")[2])),
    "by both": lambda lines: csv(lines.assign(pair=lines.pair.astype(float))),
    "byte-order mark, semicolons": lambda lines: (
        codecs.BOM_UTF8 + lines.to_csv(index=False, sep=";").encode()
    ),
    "numbered rows, as R writes them": lambda lines: lines.to_csv(index_label=False).encode(),
    "blank lines": lambda lines: b"\n" + csv(lines).replace(b"\n", b"\r\n\n"),
    "packed": lambda lines: gzip.compress(csv(lines)),
    "JSON lines": lambda lines: named(lines).to_json(orient="records", lines=True).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_predictions_are_read_in_every_form(
    read: Callable[..., pd.DataFrame], own: pd.DataFrame, lines: pd.DataFrame, form: str
) -> None:
    pd.testing.assert_frame_equal(read(FORMS[form](lines)), own)


@pytest.mark.parametrize("frame", ["image", "64", "240", "777", "pad840", "pad99", "0..1", "-1..1"])
def test_true_targets_are_right_in_every_frame(
    read: Callable[..., pd.DataFrame], data: Path, own: pd.DataFrame, frame: str
) -> None:
    size, true = own[["target_width", "target_height"]].to_numpy(float), own[["target_x", "target_y"]] / 64
    written = np.array(
        [from_image(xy * wh, frame, wh) for xy, wh in zip(true.to_numpy(float), size, strict=True)]
    )
    table = pd.DataFrame({"pair": own.pair, "point": own.point, "x": written[:, 0], "y": written[:, 1]})
    figures = score(read(csv(table), frame), (0.01,))["totals"]
    assert {figure["value"] for figure in figures} == {100}
    answers = iter([written[own.pair == pair] for pair in own.pair.unique()])
    benchmark = open_benchmark("pfpascal", data, img_side=64)
    found = evaluate(lambda *_: next(answers), benchmark, alpha=(0.01,), frame=frame)
    assert {figure["value"] for figure in found.figures["totals"]} == {100}


def test_a_padded_square_has_the_borders_of_geoaware_sc() -> None:
    """As its `preprocess_kps_pad` computes them, for a wide, a tall and a square image."""
    for size, expected in (
        ((300, 225), (28, 133)),
        ((203, 400), (840 * 30 / 400 + 207, 63)),
        ((50, 50), (504, 504)),
    ):
        found = from_image(np.array([[10, 10] if size[0] == 300 else [30, 30]]), "pad840", size)
        assert found[0] == pytest.approx(expected), size


@pytest.mark.parametrize("frame", ["pad", "0", "-240", "pad0", "0..2", "240x240", "99999"])
def test_what_is_no_frame_is_refused(frame: str) -> None:
    with pytest.raises(UserError, match=frame):
        checked_frame(frame)


def test_missing_predictions_count_as_wrong_and_are_counted_apart(
    read: Callable[..., pd.DataFrame], own: pd.DataFrame, lines: pd.DataFrame
) -> None:
    right = lines.assign(x=own.target_x / 64 * own.target_width, y=own.target_y / 64 * own.target_height)
    right = right[right.pair != 0]  # one pair wholly, one point by an empty cell, one by a missing line
    right.loc[(right.pair == 1) & (right.point == 0), ["x", "y"]] = np.nan
    right = right[~((right.pair == 1) & (right.point == 3))]
    found = score(read(csv(right)), (0.1,))
    n = [int((own.pair == pair).sum()) for pair in (0, 1)]
    assert found["n_points_without_prediction"] == n[0] + 2
    assert (
        f"predictions: {n[0] + 2} of {len(own)} key-points have no prediction and count as wrong"
        in found["about"]
    )
    by_pair = [0, 100 * (n[1] - 2) / n[1], *[100] * 6]
    assert found["totals"][0]["value"] == pytest.approx(np.mean(by_pair))


def test_our_own_predictions_get_a_report_where_a_folder_is_named(
    data: Path, tmp_path: Path, ours: Path
) -> None:
    out = succeed(tmp_path, f"{ON} --datapath {data} --from-predictions {ours} --logpath again").out
    assert results_of(tmp_path / "logs/again")["figures"] == results_of(ours)["figures"]
    printed = succeed(tmp_path, f"test.py --from-predictions {ours}").out
    assert out.count("PCK@0.1") == printed.count("PCK@0.1") > 0
    message = refused(
        tmp_path, f"{ON} --datapath {data} --split val --from-predictions {ours} --logpath other"
    )
    assert "--split" in message


WRONG = ["9,0,1,1", "0,40,1,1", "0,0,2,2", "0.5,0,1,1", "0,left eye,1,1", ",1,1,1", "0,1,1,", "0,1,inf,1"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("line", WRONG)
def test_wrong_lines_are_named(read: Callable[..., pd.DataFrame], line: str, form: str) -> None:
    lines = ["pair,point,x,y", "0,0,1,1", line]
    if form == "jsonl":
        names, *rows = (row.split(",") for row in lines)
        lines = ["", *(json.dumps(dict(zip(names, row, strict=True))) for row in rows)]
    with pytest.raises(UserError, match="theirs, line 3: "):
        read("\n".join(lines).encode())


class Listed(SPair):
    """A benchmark whose pairs are given."""

    def __init__(self, *pairs: tuple[str, str, str]) -> None:
        self.split, self.pairs = "test", []
        for source, target, category in pairs:
            self.pairs.append(Pair(0, source, target, self.categories.index(category)))


LISTED = Listed(
    ("JPEGImages/cat/1.jpg", "JPEGImages/cat/2.jpg", "cat"),
    ("JPEGImages/dog/1.jpg", "JPEGImages/dog/2.jpg", "dog"),
    ("JPEGImages/cow/3.jpg", "JPEGImages/cow/2.jpg", "cow"),
    ("JPEGImages/cow/4.jpg", "JPEGImages/cow/5.jpg", "cow"),
    ("JPEGImages/cow/4.jpg", "JPEGImages/cow/5.jpg", "cow"),
)


@pytest.mark.parametrize(
    ("source", "target", "category", "found"),
    [
        ("elsewhere/dog/1.jpg", "/dog/2.jpg", "", [1]),
        ("dog/1", "2.jpg", "", [1]),
        ("1.JPG", "2", "CAT", [0]),
        ("3.jpg", "2.jpg", "", [2]),
        ("3.jpg", "2.jpg", "cat", []),
        ("cat/3.jpg", "2.jpg", "", []),  # a folder that is a category says it
        ("2.jpg", "1.jpg", "cat", []),  # the other way round is another pair
        ("1.jpg", "2.jpg", "", [0, 1]),
        ("4.jpg", "5.jpg", "cow", [3, 4]),
    ],
)
def test_names_match_by_their_last_parts(
    tmp_path: Path, source: str, target: str, category: str, found: list[int]
) -> None:
    """One pair is meant, or none can be told, and a number tells."""
    path, names = tmp_path / "theirs", (source, target, category)
    assert find_pairs([names], LISTED) == {names: found}
    for pair in ("", 0, 1, 2, 3):
        path.write_text(f"pair,source,target,category,point,x,y\n{pair},{','.join(names)},0,1,1\n")
        if pair in found or (pair == "" and len(found) == 1):
            assert read_external(path, LISTED).table.pair.tolist() == (found if pair == "" else [pair])
        else:
            with pytest.raises(UserError, match="theirs, line 2"):
                read_external(path, LISTED)


@needs_data
def test_the_published_programs_predictions_give_its_own_figures(tmp_path: Path) -> None:
    """Its four pairs as a table of pairs, its predictions as another method's."""
    pairs = np.load(SHARED / "golden/resnet50/pairs.npz")
    golden = np.load(SHARED / "golden/resnet50/eval_batch_resnet50.npz")
    listed, predicted = [], []
    for b, n in enumerate(pairs["n_pts"]):
        for end in ("src", "trg"):
            Image.fromarray(pairs[f"{end}_image"][b]).save(tmp_path / f"{b}-{end}.png")
        names = {"source": f"{b}-src.png", "target": f"{b}-trg.png"}
        for k in range(n):
            ends = [pairs[f"{end}_kps"][b, axis, k] for end in ("src", "trg") for axis in (0, 1)]
            listed.append(names | dict(zip(COLUMNS[2:], ends, strict=True)))
            x, y = golden["predicted_kps"][b, :, k]
            predicted.append(names | {"point": k, "x": x, "y": y})
    (tmp_path / "pairs.csv").write_bytes(csv(pd.DataFrame(listed)))
    (tmp_path / "theirs").write_bytes(csv(pd.DataFrame(predicted)))
    on = "test.py --benchmark table --datapath pairs.csv --thres img --workers 0 --logpath theirs"
    succeed(tmp_path, f"{on} --from-predictions theirs --predictions-frame 240")
    assert results_of(tmp_path / "logs/theirs")["figures"]["totals"][0]["value"] == golden["pck"].mean()
    table = read_predictions(tmp_path / "logs/theirs/predictions.csv.gz")
    assert measure(table, (0.1,), "img")[0][1].tolist() == golden["pck"].tolist()


# Matchers


@pytest.mark.parametrize("name", ["pfwillow", "synthetic"])
def test_a_matcher_gets_images_as_shown_and_points_in_their_pixels(name: str, tmp_path: Path) -> None:
    tiny.make_pfwillow(tmp_path)
    benchmark = open_benchmark(name, tmp_path, "test", img_side=64)
    del benchmark.pairs[6:]
    answers = iter(map(benchmark.complete, benchmark.pairs))

    def matcher(source: Image.Image, target: Image.Image, points: np.ndarray) -> np.ndarray:
        assert source.mode == target.mode == "RGB"
        assert points.dtype == np.float64
        pair = next(answers)
        assert points == pytest.approx(pair.src_kps.T)
        assert (points <= source.size).all()
        found = pair.trg_kps.T.copy()
        assert (found <= target.size).all()
        found[0] = np.nan
        return found

    found = evaluate(matcher, benchmark, alpha=(0.01, 0.1), folder=tmp_path / "run")
    n = found.table.groupby("pair").size()
    assert found.figures["totals"][0]["value"] == pytest.approx((100 * (n - 1) / n).mean())
    assert found.figures["n_points_without_prediction"] == len(n)
    assert "count as wrong" in str(found)
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "run/predictions.csv.gz"), found.table)
    assert results_of(tmp_path / "run")["figures"] == found.figures


@pytest.mark.parametrize("answer", [[[1, 1]], [[np.inf, 1]] * 10, np.zeros((2, 10))])
def test_an_answer_that_is_no_list_of_points_is_refused(tmp_path: Path, answer: Any) -> None:
    tiny.make_pfwillow(tmp_path)
    with pytest.raises(UserError, match="pair 0: "):
        evaluate(lambda *_: answer, PFWillow(tmp_path, "test"))


def test_the_document_runs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "own-method.md").read_text()
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "Datasets_DHPF").symlink_to(data)
    monkeypatch.chdir(home)
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    exec(block, {})
    found = read_predictions(home / "logs/nearest/predictions.csv.gz")
    assert score(found, (0.1,))["totals"][0]["value"] > 60  # crops of one texture
    (table,) = re.findall(r"^```\n(source.*?)^```", text, re.S | re.M)
    table = table.replace("2010_001054", "2008_000002_cat").replace("2010_003358", "2008_000003_cat")
    (home / "theirs.csv").write_text(table)
    for command in re.findall(r"^python (test.py .*)", text, re.M):
        succeed(home, f"{command} --workers 0 --no-download")
    for name, missing in (("nearest-report", 0), ("theirs", len(found) - 2)):
        assert results_of(home / "logs" / name)["figures"]["n_points_without_prediction"] == missing


def test_a_matcher_of_ours_gives_the_figures_of_ours(data: Path, own: pd.DataFrame) -> None:
    from dhpf import Matcher

    matcher = Matcher.load("efficientnet_lite0", img_side=64, device="cpu")
    benchmark = open_benchmark("pfpascal", data, "test", img_side=64)
    found = evaluate(lambda *pair: matcher.match(*pair).points, benchmark, encode=matcher.encode)
    size = own[["target_width", "target_height"]].to_numpy()
    clipped = own[["predicted_x", "predicted_y"]].clip(0, 64 * (size - 1) / size)  # as `match` does
    assert found.table[["predicted_x", "predicted_y"]].to_numpy() == pytest.approx(
        clipped.to_numpy(), abs=1e-3
    )
    assert set(score(found.table, (0.1,))) == set(found.figures)

    found = evaluate(matcher, benchmark)
    pd.testing.assert_frame_equal(found.table.assign(layer_sel=""), own)
    assert found.pck == found.pck_at(0.1) == score(own, (0.1,))["totals"][0]["value"]
    assert found.pck_at(0.05) < found.pck < found.pck_at(0.3)
    assert f"{found.pck:.2f} %" in found.summary()
    assert f"{found.pck:.2f} %" in repr(found)
    assert len(repr(found)) < 200
    with pytest.raises(UserError, match="img_side"):
        evaluate(matcher, open_benchmark("pfpascal", data))
    with pytest.raises(UserError, match="evaluation=True"):
        evaluate(matcher, open_benchmark("pfpascal", data, "trn", img_side=64, evaluation=False))


@needs_data
def test_a_peers_file_in_a_padded_frame_is_scored_by_one_command(tmp_path: Path) -> None:
    """SPair-71k's cats in a padded square of 840 pixels, as GeoAware-SC places key-points there."""
    lines = (SHARED / "data" / "SPair-71k" / "Layout" / "large" / "test.txt").read_text().splitlines()[:120]
    (tmp_path / "some.txt").write_text("\n".join(lines))
    benchmark = open_benchmark("spair", SHARED / "data", pair_list=tmp_path / "some.txt")
    rng, rows, correct = np.random.default_rng(0), [], []
    for listed in benchmark.pairs:
        pair = benchmark.complete(listed)
        width, height = benchmark.size(pair.trg_key)
        x1, y1, x2, y2 = pair.trg_bbox
        longer = max(width, height)
        left, top = (int((840 - int(np.around(840 * side / longer))) / 2) for side in (width, height))
        for point, (x, y) in enumerate(pair.trg_kps.T):
            off = rng.normal(0, 0.08 * max(x2 - x1, y2 - y1), 2)
            correct.append(np.hypot(*off) <= 0.1 * max(x2 - x1, y2 - y1))
            u, v = (x + off[0]) * 840 / longer + left, (y + off[1]) * 840 / longer + top
            rows.append([Path(pair.src_key).stem, Path(pair.trg_key).name, "cat", point, u, v])
    table = pd.DataFrame(rows, columns=["source", "target", "category", "point", "x", "y"])
    table.to_csv(tmp_path / "peer.csv", index=False)
    on = f"test.py --benchmark spair --categories cat --datapath {SHARED / 'data'} --workers 0"
    succeed(
        tmp_path,
        f"{on} --list some.txt --from-predictions peer.csv --predictions-frame pad840 --logpath peer",
    )
    totals = json.loads((tmp_path / "logs" / "peer" / "results.json").read_text())["figures"]["totals"]
    (found,) = [f for f in totals if (f["frame"], f["average"]) == ("original pixels", "key-points")]
    assert found["value"] == pytest.approx(100 * np.mean(correct), abs=0.05)
