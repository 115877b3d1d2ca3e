"""What is annotated in an image alone: all its visible key-points, which the annotation of a pair does not have.

And which key-points look alike, or change places in a mirror (`keypoint_groups.json`).
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dhpf.common.errors import UserError

UNKNOWN_AZIMUTH = -1
AZIMUTHS = 8  # of 45 degrees each
TABLE = Path(__file__).with_name("keypoint_groups.json")
Points = Mapping[str, tuple[float, float]]  # by name or number, (x, y)


class ImageAnnotation(NamedTuple):
    """points: all that are visible, in pixels of the stored image. azimuth: 0 to 7, of 45 degrees each; -1: unknown."""

    points: Points
    azimuth: int = UNKNOWN_AZIMUTH


class PointGroups(NamedTuple):
    """Of the key-points of a category. alike: by point, the group that looks like it, itself included. mirrored: by
    point, the one that it changes places with in a mirror."""

    alike: Mapping[str, frozenset[str]]
    mirrored: Mapping[str, str]


def parse_spair(content: Any) -> ImageAnnotation:
    """What a file of SPair-71k's `ImageAnnotation` holds. Raises: UserError: it is something else."""
    try:
        points = {str(k): (float(xy[0]), float(xy[1])) for k, xy in content["kps"].items() if xy is not None}
        azimuth = content.get("azimuth_id")
        return ImageAnnotation(points, UNKNOWN_AZIMUTH if azimuth is None else int(azimuth) % AZIMUTHS)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"not the annotation of an image ({error!r})") from error


def azimuth_difference(one: ImageAnnotation, other: ImageAnnotation) -> int:
    """How many eighths of a turn lie between two azimuths, 0 to 4; -1: one is unknown."""
    if UNKNOWN_AZIMUTH in (one.azimuth, other.azimuth):
        return UNKNOWN_AZIMUTH
    apart = abs(one.azimuth - other.azimuth)
    return min(apart, AZIMUTHS - apart)


def parse_points(text: str) -> dict[str, tuple[float, float]]:
    """Points that a sample or a table of predictions has as JSON; none where they are unknown."""
    return {name: (x, y) for name, (x, y) in json.loads(text or "{}").items()}


@cache
def point_groups(category: str, names: tuple[str, ...] = ()) -> PointGroups | None:
    """The groups of a category of the table, None if it has none of it; `names`: of its numbers, if not these."""
    table = json.loads(TABLE.read_text())
    if category not in table["alike"]:
        return None
    alike, mirrored = (
        [[names[k] if names else str(k) for k in group] for group in table[kind][category]]
        for kind in ("alike", "mirrored")
    )
    return PointGroups(
        {name: frozenset(group) for group in alike for name in group},
        {name: other for pair in mirrored for name, other in zip(pair, reversed(pair), strict=True)},
    )
