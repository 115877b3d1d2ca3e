"""PF-WILLOW: 10 classes, 10 key-points per image, all of them in the pair list (docs/method.md, section 9)."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from dhpf.data.benchmark import Array, Benchmark, Pair, padded
from dhpf.data.lists import parse_points, read_pair_table
from dhpf.data.names import path_parts
from dhpf.data.published_lists import Published

POINTS = range(1, 11)
COLUMNS = ("imageA", "imageB", *(f"{axis}{image}{n}" for image in "AB" for axis in "XY" for n in POINTS))
CATEGORIES = """
    car(G) car(M) car(S) duck(S) motorbike(G) motorbike(M) motorbike(S) winebottle(M) winebottle(wC)
    winebottle(woC)
"""


class PFWillow(Benchmark):
    """PF-WILLOW, for evaluation only.

    It has no boxes.  Its published 'bbox' threshold is the extent of the padded key-point list, that is
    max(x, y) + 1; 'bbox-kp' is the true extent of the key-points (method, section 8).
    """

    name = "pfwillow"
    folder = "PF-WILLOW"
    other_folders = ("PF-dataset",)
    subfolders = categories = tuple(CATEGORIES.split())
    lists = ("bbox_{split}_pairs_pf.csv", "{split}_pairs_pf.csv", "{split}_pairs.csv")
    published = MappingProxyType({"test": Published(900, "0680b285e2f7f08f")})
    splits = ("test",)
    thresholds = ("img", "bbox", "bbox-kp")
    auto_thres = "bbox"
    bbox_definition = "max(x, y) + 1 over the target key-points, as published"
    paper = MappingProxyType({"average": "pairs", "frame": "240x240 frame", "thres": "bbox"})

    def read_pairs(self) -> list[Pair]:
        def to_pair(line: int, row: Mapping[str, str]) -> Pair:
            source, target = (path_parts(row[f"image{end}"], 2)[-2:] for end in "ab")
            src_kps, trg_kps = (
                parse_points(*(",".join(row[f"{axis}{end}{n}"] for n in POINTS) for axis in "xy"))
                for end in "ab"
            )
            category = self.category_id(source[0])
            points = tuple(map(str, POINTS))
            return Pair(line, "/".join(source), "/".join(target), category, src_kps, trg_kps, points)

        return read_pair_table(self.list_path, COLUMNS, to_pair)

    def bbox_extent(self, trg_kps: Array, trg_bbox: Array) -> Array:
        """The extent of the *padded* list, as published: the padding counts as a point."""
        return np.ptp(padded(trg_kps, self.max_pts), axis=1)
