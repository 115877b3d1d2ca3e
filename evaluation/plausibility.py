"""Whether predictions look as if they were given in another frame, as source points or with x and y swapped.

Simple statistics of all key-points: what share of the predictions is near the true target as they are given, and what
share would be if they meant something else. Nothing is changed, only said. Bad predictions are near nothing; only those
of a network that shows no motion at all lie on the source points, as those of a wrong file do.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.metrics import Reals, with_points
from dhpf.evaluation.prediction_frames import from_image, to_image

NEAR = 0.05  # of an image's longer side: a prediction so near a point counts for it
CLEAR = 0.15, 2.5  # another meaning has so much larger a share than the given one, and so many times it
# So large a share lies within this of the source points: no method that finds anything does so.
ON_SOURCE = 0.85, 0.03
OUTSIDE = 0.25  # share of predictions outside their images that no method has
USUAL_SIDES = (224, 240, 256, 384, 400, 448, 480, 512, 518, 560, 640, 768, 800, 840, 896, 960, 1024)
TOLERANCE = 0.04  # by which an estimated side may differ from a usual one
MIN_POINTS = 20


def plausibility_warning(table: pd.DataFrame, benchmark: Benchmark, frame: str) -> str:
    """A sentence about what predictions seem to mean other than what they were read as; empty if nothing does.

    Args: table: of predictions; frame: what they were read in (see `prediction_frames`).
    """
    rows = with_points(table).dropna(subset=["predicted_x", "predicted_y"])
    if len(rows) < MIN_POINTS or benchmark.metric != "pck":
        return ""
    size = rows[["target_width", "target_height"]].to_numpy(float)
    by_pair = {pair: benchmark.size(key) for pair, key in rows.source.groupby(level=0).first().items()}
    source_size = np.array([by_pair[pair] for pair in rows.index], float)
    source, target, found = (
        rows[[f"{end}_x", f"{end}_y"]].to_numpy(float) / benchmark.img_side
        for end in ("source", "target", "predicted")
    )
    given = from_image(found * size, frame, size)
    target *= size

    def share(points: Reals, true: Reals = target, near: float = NEAR) -> float:
        """What share of points is near the true ones, in pixels of the target."""
        return float((np.linalg.norm(points - true, axis=1) <= near * size.max(1)).mean())

    on_source = max(
        share(points, at, ON_SOURCE[1])
        for points, at in ((found * size, source * size), (given, source * source_size))
    )
    meanings = {
        "the points of the source image: give those of the target": on_source * (on_source >= ON_SOURCE[0]),
        "y, x: give x first": share(to_image(given[:, ::-1], frame, size)),
    }
    for other in dict.fromkeys(other_frames(given, target, size)):
        meanings[f"in another frame: give --predictions-frame {other}"] = share(to_image(given, other, size))
    scale = estimated_side(given, target)
    if scale > 0 and abs(scale - 1) > TOLERANCE:
        meanings[f"in pixels of images {scale:.2f} times the size of the stored ones: scale them"] = share(
            given / scale
        )
    as_given = share(found * size)
    meaning, most = max(meanings.items(), key=lambda item: item[1])
    if most >= as_given + CLEAR[0] and most >= CLEAR[1] * as_given:
        return f"the predictions look as if they were {meaning} (so {most:.0%} would be near, as read {as_given:.0%})"
    outside = float(((found < -NEAR) | (found > 1 + NEAR)).any(1).mean())
    if outside > OUTSIDE:
        return (
            f"{outside:.0%} of the predictions are outside their images: is it the right --predictions-frame?"
        )
    return ""


def other_frames(given: Reals, target: Reals, size: Reals) -> Iterator[str]:
    """Frames that points [n, 2] may be in, whose true places are these in images of these sizes, in pixels."""
    yield from ("image", "0..1", "-1..1")
    longer = size.max(1, keepdims=True)
    along = size == longer  # there a padded square has no border
    for prefix, side in (
        ("", estimated_side(given, target / size)),
        ("pad", estimated_side(given[along], (target / longer)[along])),
    ):
        usual = min(USUAL_SIDES, key=lambda usual: abs(usual - side))
        side = usual if abs(usual - side) <= TOLERANCE * usual else round(side)
        if side >= 2:
            yield f"{prefix}{side}"


def estimated_side(given: Reals, true: Reals) -> float:
    """How many times as large as true coordinates given ones are: the median, of those that are not near the origin."""
    far = true > np.median(true)
    return float(np.median(given[far] / true[far])) if far.any() else 0.0
