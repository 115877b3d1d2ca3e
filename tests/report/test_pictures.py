"""Pictures: what they show, where, and that it can be told apart and read."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dhpf.matching import drawing
from dhpf.report import pictures

pytestmark = pytest.mark.filterwarnings(  # matplotlib's, of what cannot be laid out or drawn
    "error", "ignore::DeprecationWarning"
)


def photograph(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def points(*xy):
    return np.array(xy, dtype=np.float32).reshape(-1, 2).T


def lines(axes, *kinds):
    """The lines of some kinds: their ends, [n, 2, 2]."""
    drawn = [c.get_segments() for c in axes.collections if c.get_gid() in kinds]
    return np.concatenate([np.reshape(segments, (-1, 2, 2)) for segments in drawn])


def legend(figure):
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(drawing.render(figure, "png", 96))).convert("RGB"))


SRC = points((10, 10), (20, 30), (30, 20), (5, 35))
TRG = points((40, 10), (50, 60), (30, 60), (5, 5))
PREDICTED = points((41, 11), (10, 10), (30, 60), (np.nan, np.nan))
PAIR = {
    "src_image": photograph(60, 40), "trg_image": photograph(80, 100, 1), "src_kps": SRC, "predicted": PREDICTED,
    "trg_kps": TRG, "correct": [True, False, True, False],
}  # fmt: skip


@pytest.mark.parametrize("sides", [((60, 40), (80, 100)), ((300, 50), (300, 60)), ((50, 60), (300, 80))])
def test_match_ends_lie_on_the_points_they_name_for_images_of_any_sizes(sides):
    kps = [points((0, 0), (w - 1, h - 1), (w // 3, h // 2)) for w, h in sides]
    (axes,) = drawing.matches(photograph(*sides[0]), photograph(*sides[1]), *kps).axes
    drawn, boxes = lines(axes, "match"), [image.get_extent() for image in axes.images]
    assert len(drawn) == 3
    assert boxes[0][1] < boxes[1][0] or boxes[0][2] < boxes[1][3]  # side by side, or one below the other
    for k, ((left, right, bottom, top), (w, h), xy) in enumerate(zip(boxes, sides, kps, strict=True)):
        assert (right - left) / (bottom - top) == pytest.approx(w / h)  # the aspect is kept
        pixels = (drawn[:, k] - [left, top]) / [right - left, bottom - top] * [w, h] - 0.5
        assert pixels == pytest.approx(xy.T, abs=1e-3)


def test_correct_incorrect_and_missing_are_told_without_colour():
    figure = drawing.matches(**PAIR)
    (axes,) = figure.axes
    drawn = {kind: lines(axes, kind) for kind in ("correct", "incorrect")}
    assert [len(segments) for segments in drawn.values()] == [2, 1]
    one, other = (next(c for c in axes.collections if c.get_gid() == kind) for kind in drawn)
    assert one.get_linestyle() != other.get_linestyle()
    assert drawing.KINDS["correct"]["marker"] != drawing.KINDS["incorrect"]["marker"]
    assert legend(figure) == ["correct (2)", "incorrect (1)", "no prediction (1)", "ground truth (4)"]


def test_extremes_shows_no_pair_twice_and_of_tied_ones_not_the_first_of_the_list():
    values = pd.Series([50.0, np.nan, 10, 90, 70, 30, 60, 20, 80, 40])
    assert pictures.extremes(values, 1) == {"best": [3], "median": [0], "worst": [2]}
    groups = pictures.extremes(pd.Series(100.0, index=range(90)))
    shown = [label for labels in groups.values() for label in labels]
    assert len(set(shown)) == 9
    assert max(shown) - min(shown) > 45  # the first would all be of one category


def test_text_from_data_is_never_read_as_formulas():
    name = r"$\frac{1 $a^"
    pair = PAIR | {
        "src_kps": points(),
        "predicted": points(),
        "trg_kps": None,
        "correct": None,
        "title": name,
    }
    for figure in (
        drawing.matches(**pair), pictures.contact_sheet({name: [pair]}),
        pictures.layer_selection({name: [0.5]}), pictures.pck_curve({name: {1: 1}}),
    ):  # fmt: skip
        figure.draw_without_rendering()
