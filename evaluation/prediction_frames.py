"""Frames that other methods predict in: from their coordinates to pixels of the stored image, and back.

- `image`: pixels of the stored image.
- `N`, such as 240: pixels of an N×N square that the image is stretched to.
- `padN`, such as pad840: pixels of an N×N square in whose middle the image lies, scaled to fit. The borders are
  GeoAware-SC's (`resize`, `preprocess_kps_pad`): the shorter side is rounded to whole pixels, and what is left of N is
  halved and rounded down.
- `0..1`, `-1..1`: shares of width and height; of the image's left upper and right lower corner.
"""

import re
from typing import TYPE_CHECKING, Any

from dhpf.common.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MAX_SIDE = 10_000  # pixels of a frame
IMAGE = "image"


def checked_frame(text: str) -> str:
    """The name of a frame. Raises: UserError: it is none."""
    square = re.fullmatch(r"(?:pad)?([1-9]\d*)", text)
    if text not in (IMAGE, "0..1", "-1..1") and not (square and int(square[1]) <= MAX_SIDE):
        raise UserError(f"'{text}' is no frame: image, a side such as 240, pad840, 0..1 or -1..1")
    return text


def to_image(points: "ArrayLike", frame: str, size: "ArrayLike") -> Any:
    """Points [n, 2] (x, y) of a frame in pixels of the stored image. Args: size: (width, height) of the
    image, or of each point's, [n, 2]."""
    scale, offset = _scale_and_offset(frame, size)
    return (points - offset) / scale


def from_image(points: "ArrayLike", frame: str, size: "ArrayLike") -> Any:
    """The inverse of `to_image`."""
    scale, offset = _scale_and_offset(frame, size)
    return points * scale + offset


def _scale_and_offset(frame: str, size: "ArrayLike") -> tuple[Any, Any]:
    """What pixels of the stored image are multiplied by, and what is added then, each one number or (x, y)."""
    import numpy as np  # not above: the options, which check frames, need no numpy

    sides = np.asarray(size, dtype=np.float64)
    if frame == IMAGE:
        return 1.0, 0.0
    if frame == "0..1":
        return 1 / sides, 0.0
    if frame == "-1..1":
        return 2 / sides, -1.0
    side = int(frame.removeprefix("pad"))
    if not frame.startswith("pad"):
        return side / sides, 0.0
    longer = sides.max(-1, keepdims=True)
    return side / longer, (side - np.around(side * sides / longer).astype(int)) // 2
