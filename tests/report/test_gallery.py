"""Pairs on a page: what is drawn where."""

import base64
import io
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dhpf.report.gallery import pair_drawing, pair_picture
from dhpf.report.page import Picture


class Benchmark:
    """Two images in a frame of 100 pixels."""

    img_side = 100

    def pil_image(self, key: str) -> Image.Image:
        return Image.new("RGB", (200, 100) if key == "a" else (4000, 6000), "red" if key == "a" else "lime")


def points(path: str) -> list[tuple[float, float]]:
    """The ends of a path's lines, or the leftmost points of its circles."""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+?) ([-\d.]+)", path)]


def picture(correct: Any, predicted_x: Any = (50, 50, np.nan)) -> Picture:
    columns = {"source": "a", "target": "b", "source_x": [0, 50, 100], "source_y": [0, 50, 100]}
    columns |= {
        "predicted_x": predicted_x,
        "predicted_y": [50, 50, 50],
        "target_x": [50, 0, 100],
        "target_y": [50, 0, 100],
    }
    drawing = pair_drawing(Benchmark(), pd.DataFrame(columns), correct)  # type: ignore[arg-type]
    assert [max(drawing[f"{end}_image"].size) for end in ("src", "trg")] == [200, 500]
    return pair_picture(**drawing, title="a pair")


def test_marks_lie_on_their_points_in_photographs_of_their_own_shape() -> None:
    drawn = picture(np.array([True, False, True]))
    image = Image.open(io.BytesIO(base64.b64decode(drawn.source.partition(",")[2])))
    assert image.size == (drawn.width, drawn.height)
    wide, gap, narrow = 256 * 2, 256 * 0.03, 256 * 2 / 3
    assert image.size == (pytest.approx(wide + gap + narrow, abs=2), 256)
    colours = [
        image.getpixel(xy) for xy in ((10, 10), (wide - 5, 250), (wide + gap + 5, 5), (drawn.width - 5, 250))
    ]
    assert [np.argmax(colour) for colour in colours] == [0, 0, 1, 1]
    first, second = points(drawn.marks["correct"])
    assert first == pytest.approx((0.5 / 200 * wide, 0.5 / 100 * 256), abs=0.1)
    middle = wide + gap + narrow / 2, 128
    assert second == pytest.approx(middle, abs=0.5)
    assert points(drawn.marks["incorrect"])[1] == pytest.approx(middle, abs=0.5)
    assert points(drawn.marks["error"])[3] == pytest.approx(
        (wide + gap, 0), abs=0.3
    )  # how far the second is off
    assert len(points(drawn.marks["truth"])) == 3
    assert len(points(drawn.marks["missing"])) == 2  # from the point to itself
    assert {"correct ends", "incorrect ends"} < set(drawn.marks)
