"""Scoring: against a naive evaluator in exact arithmetic, the published program's values, and the edges."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

from dhpf.common.errors import UserError
from dhpf.data.caltech import Caltech
from dhpf.data.spair import DIFFICULTY
from dhpf.evaluation import intervals
from dhpf.evaluation import predictions as table
from dhpf.evaluation.figures import measure, score
from dhpf.evaluation.metrics import keypoint_errors
from tests.helpers.places import SHARED
from tests.helpers.tables import MAX_PTS, SIDE, make_pair, table_of, whole_points

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="no benchmark data beside the repository")

ALPHAS = (0.05, 0.1, 0.5)


def values(figures: list[dict[str, Any]]) -> dict[tuple, float]:
    return {(f["alpha"], f["average"], f["frame"]): f["value"] for f in figures}


@st.composite
def pair(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(0, MAX_PTS))
    x, y = draw(whole_points)
    return {
        "target": draw(st.lists(whole_points, min_size=n, max_size=n)),
        "predicted": draw(st.lists(st.none() | whole_points, min_size=n, max_size=n)),
        "size": [SIDE * draw(st.integers(1, 3)), SIDE * draw(st.integers(1, 3))],
        "box": [x, y, x + draw(st.integers(0, 30)), y + draw(st.integers(0, 30))],
        "category": draw(st.sampled_from(("cat", "dog", "a, b"))),
        "leaked": draw(st.integers(0, 1)),
        "labels": {name: draw(st.integers(-1, len(grades) - 1)) for name, grades in DIFFICULTY.items()},
    }


def naive_extent(pair: dict, thres: str, boxed: bool) -> tuple[int, int]:
    """What the threshold is the larger side of; nothing without key-points."""
    xs, ys = ([xy[axis] for xy in pair["target"]] for axis in (0, 1))
    if not xs:
        return 0, 0
    if thres == "img":
        return SIDE, SIDE
    if thres == "bbox" and boxed:
        return pair["box"][2] - pair["box"][0], pair["box"][3] - pair["box"][1]
    # The published PF-WILLOW box counts the padding of a list that is not full.
    extra = [-1] if thres == "bbox" and len(xs) < MAX_PTS else []
    width, height = (max(values + extra) - min(values + extra) for values in (xs, ys))
    return width, height


def naive_pck(pairs: list[dict], alpha: float, thres: str, original: bool, boxed: bool) -> tuple:
    """Means over pairs, points and categories with a loop over each, in exact arithmetic."""
    per_pair, per_point, per_category = [], [], {}
    for pair in pairs:
        sx, sy = (Fraction(length, SIDE) if original else Fraction(1) for length in pair["size"])
        width, height = naive_extent(pair, thres, boxed)
        limit = Fraction(str(alpha)) * max(width * sx, height * sy)
        if not limit:  # no key-point, or no threshold
            continue
        hits = []
        for (x, y), found in zip(pair["target"], pair["predicted"], strict=True):
            hits.append(
                found is not None and ((found[0] - x) * sx) ** 2 + ((found[1] - y) * sy) ** 2 <= limit**2
            )
        per_pair.append(sum(hits) / len(hits))
        per_point.extend(hits)
        per_category.setdefault(pair["category"], []).extend(hits)
    shares = [Fraction(sum(hits), len(hits)) for hits in per_category.values()]
    return tuple(float(100 * sum(v) / len(v)) if v else None for v in (per_pair, per_point, shares))


def check_against_naive(figures: list[dict], pairs: list[dict], thres: str, boxed: bool) -> None:
    pairs = [
        p for p in pairs if not p["target"] or max(naive_extent(p, thres, boxed))
    ]  # nothing is within no distance
    found = values(figures)
    for alpha in ALPHAS:
        for frame, original in ((f"{SIDE}x{SIDE} frame", False), ("original pixels", True)):
            expected = naive_pck(pairs, alpha, thres, original, boxed)
            got = tuple(found[alpha, average, frame] for average in ("pairs", "key-points", "categories"))
            assert got == (pytest.approx(expected) if expected[0] is not None else expected)
    counted = [p for p in pairs if max(naive_extent(p, thres, boxed))]
    assert {f["n_points"] for f in figures} == {sum(len(p["target"]) for p in counted)}
    assert {f["n_pairs"] for f in figures} == {len(counted)}


@settings(deadline=None, max_examples=8)
@given(st.lists(pair(), min_size=1, max_size=6), st.sampled_from(("img", "bbox", "bbox-kp")), st.booleans())
def test_every_pck_agrees_with_a_naive_evaluator(pairs: list[dict], thres: str, boxed: bool) -> None:
    rows = []
    for i, p in enumerate(pairs):
        sample, predicted = make_pair(
            i, p["target"], p["target"], p["predicted"], category=p["category"], leaked=p["leaked"],
            trg_size=torch.tensor(p["size"]), **p["labels"],
        )  # fmt: skip
        box = torch.tensor(p["box"]).float()
        listed = sample["trg_kps"]  # PF-WILLOW's published box is that of the list with its padding
        sample["bbox_extent"] = box[2:] - box[:2] if boxed else listed.amax(1) - listed.amin(1)
        rows.append((sample, predicted))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 2)  # they take nearly all the time
        result = score(table_of(rows), ALPHAS, thres)
    check_against_naive(result["totals"], pairs, thres, boxed)
    check_against_naive(result["without_leaked"], [p for p in pairs if not p["leaked"]], thres, boxed)
    assert set(result["categories"]) == {p["category"] for p in pairs}
    for name, figures in result["categories"].items():
        check_against_naive(figures, [p for p in pairs if p["category"] == name], thres, boxed)
    for label, groups in result.get("difficulty", {}).items():
        names = dict(enumerate(DIFFICULTY[label])) | {-1: "unknown"}
        assert set(groups) == {names[p["labels"][label]] for p in pairs}
        for name, figures in groups.items():
            check_against_naive(
                figures, [p for p in pairs if names[p["labels"][label]] == name], thres, boxed
            )
    assert result["n_pairs"] == len(pairs)
    assert result["n_pairs_without_keypoints"] == sum(not p["target"] for p in pairs)


def test_a_point_exactly_on_the_limit_counts_for_every_decimal_alpha() -> None:
    alphas, thresholds = np.meshgrid(np.arange(1, 101), np.arange(100, 241, 20))
    for percent, threshold in zip(alphas.ravel(), thresholds.ravel(), strict=True):
        if percent * threshold % 100 == 0:
            on = percent * threshold / 100
            predicted = torch.tensor([[[on, on * (1 + 1e-6)], [0, 0]]])
            target, n_pts = torch.zeros(1, 2, 2), torch.tensor([2])
            correct, distance = keypoint_errors(
                predicted, target, n_pts, torch.tensor([float(threshold)]), percent / 100
            )
            assert correct.tolist() == [[True, False]]
            assert distance[0, 0] == on


@needs_data
def test_caltech_outlines_agree_with_the_published_figures() -> None:
    golden = {
        name: np.load(SHARED / "golden/datasets.npz")[f"caltech/mask/{name}"]
        for name in ("index", "predicted", "ltacc", "iou")
    }
    data = Caltech(SHARED / "data", "test")
    batch = default_collate([data.annotation(int(i)) for i in golden["index"]])
    predictions = table.table_of(table.rows_of(batch, torch.from_numpy(golden["predicted"]), data), [])
    found = {what["name"]: series for what, series in measure(predictions, ())}
    assert list(found["LT-ACC"].index) == golden["index"].tolist()
    assert found["LT-ACC"].to_numpy() == pytest.approx(golden["ltacc"], abs=1e-12)
    assert found["IoU"].to_numpy() == pytest.approx(golden["iou"], abs=1e-7)
    result = score(predictions, ())
    assert not any(figure["paper"] for figure in result["totals"])  # of 60 pairs
    totals = {f["name"]: f["value"] for f in result["totals"] if f.get("corners") == "as published"}
    assert totals == {
        "LT-ACC": pytest.approx(golden["ltacc"].mean()),
        "IoU": pytest.approx(golden["iou"].mean(), abs=1e-7),
    }


SQUARE = [(2, 2), (12, 2), (12, 12), (2, 12)]


def outline_figures(target: list, predicted: list) -> dict[str, float]:
    source = [(1, 1)] * len(predicted)
    figures = score(table_of([make_pair(0, source, target, predicted)], "caltech"), ())["totals"]
    return {figure["name"]: figure["value"] for figure in figures}


def both(
    accuracy: float, overlap: float, accuracy_left_out: float, overlap_left_out: float
) -> dict[str, float]:
    """The published figures, and those with corners without prediction left out."""
    ending = " (corners left out)"
    published = {"LT-ACC": accuracy, "IoU": overlap}
    return published | {f"LT-ACC{ending}": accuracy_left_out, f"IoU{ending}": overlap_left_out}


def test_one_corner_without_prediction_leaves_nothing_as_published() -> None:
    empty = 1 - 121 / 400
    assert outline_figures(SQUARE, SQUARE) == both(1, 1, 1, 1)
    assert outline_figures(SQUARE, [*SQUARE, None]) == both(empty, 0, 1, 1)
    assert outline_figures(SQUARE, [None] * 4) == both(empty, 0, empty, 0)


def test_an_outline_beyond_the_frame_is_cut_at_its_border() -> None:
    everything = outline_figures(SQUARE, [(-1000, -1000), (1000, -1000), (1000, 1000), (-1000, 1000)])
    assert everything == both(*[121 / 400] * 4)


def test_target_corner_at_x_0_drops_the_last_corner_as_published() -> None:
    triangle = [(0, 2), (12, 2), (12, 12)]
    assert outline_figures([*triangle, (2, 12)], triangle) == both(1, 1, 1, 1)


def test_outline_pairs_that_cannot_be_measured_are_counted_and_left_out() -> None:
    pairs = [
        make_pair(0, [], SQUARE, []),
        make_pair(1, SQUARE, SQUARE, SQUARE),
        make_pair(2, [(1, 1)], [], [None]),
    ]
    result = score(table_of(pairs, "caltech"), ())
    assert (result["n_pairs"], result["n_pairs_without_keypoints"]) == (3, 1)
    found = {figure["name"]: (figure["value"], figure["n_pairs"]) for figure in result["totals"][:2]}
    assert found == {"LT-ACC": (1, 2), "IoU": (1, 1)}  # two empty outlines have no intersection over union


def test_no_keypoint_at_all_gives_undefined_figures() -> None:
    result = score(table_of([make_pair(0, [], [], []), make_pair(1, [], [], [])]), (0.1,))
    assert [figure["value"] for figure in result["totals"]] == [None] * 6
    assert (result["n_pairs"], result["n_pairs_without_keypoints"]) == (2, 2)


def test_a_threshold_that_the_benchmark_cannot_give_is_named() -> None:
    pair = make_pair(0, [(1, 1)], [(2, 2)], [(3, 3)], bbox_extent=torch.full((2,), torch.nan))
    with pytest.raises(UserError, match=r"--thres bbox: toy .* auto, img, bbox-kp"):
        score(table_of([pair]), (0.1,), "bbox")


def test_layer_selection_is_averaged_over_the_pairs_of_a_category() -> None:
    pairs = [make_pair(i, [(1, 1)] * (i + 1), [(1, 1)] * (i + 1), [None] * (i + 1)) for i in range(3)]
    pairs[2][0]["category"] = "dog"
    result = score(table_of(pairs, selection=torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.25]])), (0.1,))
    selection = result["layer_selection"]
    assert selection["categories"] == {"cat": [0.5, 0.0], "dog": [1.0, 0.25]}
    assert selection["total"] == pytest.approx([2 / 3, 1 / 12])
    assert "layer_selection" not in score(table_of(pairs), (0.1,))


def test_shares_by_point_go_by_name_or_by_number_and_category() -> None:
    here, off = [(1, 1)] * 3, [(19, 19)] * 3
    pairs = [
        make_pair(0, here, here, here, points="2\t10\tleft eye"),
        make_pair(1, here, here, off, points="2\t10\tleft eye"),
        make_pair(2, here[:2], here[:2], [here[0], None], points="2\tleft eye", category="dog"),
        make_pair(3, here, here, off),  # not named
    ]
    points = score(table_of(pairs), (0.1, 0.2), "img")["points"]
    assert "20x20 frame" in points["definition"]
    assert points["values"] == {
        "cat 2": {"PCK@0.1": 50, "PCK@0.2": 50, "n_points": 2},
        "cat 10": {"PCK@0.1": 50, "PCK@0.2": 50, "n_points": 2},
        "dog 2": {"PCK@0.1": 100, "PCK@0.2": 100, "n_points": 1},
        "left eye": {"PCK@0.1": pytest.approx(100 / 3), "PCK@0.2": pytest.approx(100 / 3), "n_points": 3},
    }
    assert list(points["values"]) == ["cat 2", "cat 10", "dog 2", "left eye"]
    assert "points" not in score(table_of(pairs[3:]), (0.1,))
