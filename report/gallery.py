"""Pairs of a benchmark on a page: photographs in their own shape, with the matches drawn over them by the browser."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from dhpf.data.benchmark import Benchmark
from dhpf.data.images import shrunk
from dhpf.matching.drawing import PlacedPair, Reals
from dhpf.report.page import Picture, jpeg

SIDE = 256  # pixels: the common height of two photographs side by side, or width of two one below the other
MAX_SIDE = 500  # pixels of a photograph, twice what is shown of it
RADIUS = 5  # pixels, of a ring
LEGEND = (
    "Blue discs and solid lines: correct. Orange squares and dashed lines: incorrect. White rings: the annotated "
    "points, each with a dotted line from its prediction. White squares: no prediction."
)
OUTLINE_LEGEND = (
    "Lines join points of the source with their predictions. White rings: the target's own outline. White squares: no "
    "prediction."
)


def pair_drawing(
    benchmark: Benchmark, rows: pd.DataFrame, correct: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """The arguments of `drawing.matches` for one pair: its photographs as they are stored, large ones shrunk.

    Args: rows: of the pair, in a table of predictions; correct: its key-points, if they can be right or wrong.
    Raises: UserError: an image cannot be read.
    """
    keys = rows.source.iloc[0], rows.target.iloc[0]
    images = [shrunk(benchmark.pil_image(key), MAX_SIDE) for key in keys]
    src_scale, trg_scale = (np.array(image.size)[:, None] / benchmark.img_side for image in images)
    source, predicted, target = (
        rows[[f"{end}_x", f"{end}_y"]].to_numpy().T for end in ("source", "predicted", "target")
    )
    given = np.isfinite(source[0])  # outlines of Caltech-101 differ in length
    return {
        "src_image": images[0],
        "trg_image": images[1],
        "src_kps": source[:, given] * src_scale,
        "predicted": predicted[:, given] * trg_scale,
        "trg_kps": target[:, np.isfinite(target[0])] * trg_scale,
        "correct": correct,
    }


def pair_picture(
    src_image: Image.Image,
    trg_image: Image.Image,
    src_kps: Reals,
    predicted: Reals,
    trg_kps: Reals,
    correct: NDArray[np.bool_] | None,
    title: str,
    link: str = "",
) -> Picture:
    """A pair as a picture of a page; arguments as for `drawing.matches`. Args: link: a page to explore it."""
    images = (src_image, trg_image)
    pair = PlacedPair.of(images, src_kps, predicted, trg_kps, correct)
    boxes = (np.hstack([pair.corners, pair.extents]) * SIDE).round().astype(int).tolist()
    canvas = Image.new(
        "RGB", (max(x + w for x, _, w, _ in boxes), max(y + h for _, y, _, h in boxes)), "white"
    )
    for image, (x, y, width, height) in zip(images, boxes, strict=True):
        canvas.paste(image.convert("RGB").resize((width, height)), (x, y))
    start, end, truth = (points * SIDE for points in (pair.start, pair.end, pair.truth))
    missing = pair.kinds == "no prediction"
    marks = {"truth": circles(truth), "missing": lines(start[missing], start[missing])}
    if correct is not None:
        marks["error"] = lines(end[~missing], truth[~missing])
    for kind in ("match", "correct", "incorrect"):
        chosen = pair.kinds == kind
        marks[kind] = lines(start[chosen], end[chosen])
        ends = np.concatenate([start[chosen], end[chosen]])
        marks[f"{kind} ends"] = lines(ends, ends)  # of no length: discs or squares
    marks = {kind: path for kind, path in marks.items() if path}
    return Picture(jpeg(canvas, max(canvas.size)), *canvas.size, "Matches", title, link, marks)


def lines(starts: Reals, ends: Reals) -> str:
    """A path of SVG."""
    both = np.hstack([starts, ends]).round(1).tolist()
    return "".join(f"M{x} {y}L{u} {v}" for x, y, u, v in both)


def circles(centres: Reals) -> str:
    half = f"a{RADIUS} {RADIUS} 0 1 0"
    corners = (centres - [RADIUS, 0]).round(1).tolist()
    return "".join(f"M{x} {y}{half} {2 * RADIUS} 0{half} {-2 * RADIUS} 0" for x, y in corners)
