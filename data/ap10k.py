"""AP-10K as pairs, in the preparation of GeoAware-SC: animals of one species, one family, or any two."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dhpf.common.errors import UserError, error_context
from dhpf.common.files import MIB, read_json
from dhpf.data.benchmark import Array, Benchmark, Pair, checked_box
from dhpf.data.coco import parse_box, parse_keypoints, short_repr
from dhpf.data.image_annotation import ImageAnnotation, PointGroups, point_groups
from dhpf.data.names import path_parts, printable

# <source>-<target>:<category>.json; where a name cannot hold ':' it is '_'
FILE = re.compile(r"[^-:_]+-[^-:_]+[:_](.+)\.json")

POINTS = """
    left_eye right_eye nose neck root_of_tail left_shoulder left_elbow left_front_paw right_shoulder right_elbow
    right_front_paw left_hip left_knee left_back_paw right_hip right_knee right_back_paw
"""


class AP10K(Benchmark):
    """AP-10K. A category is a species, in the splits *_cross_species a family, in *_cross_family `all`."""

    name = "ap10k"
    folder = "ap-10k"
    subfolders = ("ImageAnnotation/*/*/", "PairAnnotation/*_cross_*")
    lists = ("PairAnnotation/{split}",)
    categories: tuple[str, ...] = ()
    splits = (
        "trn", "val", "test",
        "val_cross_species", "test_cross_species", "val_cross_family", "test_cross_family",
    )  # fmt: skip
    thresholds = ("img", "bbox", "bbox-kp")
    auto_thres = "bbox"

    def read_pairs(self) -> list[Pair]:
        self._annotations: dict[str, tuple[Array, Array]] = {}
        files = sorted(path.name for path in self.list_path.glob("*.json"))
        if not files:
            raise UserError(f"{self.list_path}: there is no pair, {self.how_to_get}")
        found = {file: FILE.fullmatch(file) for file in files}
        self.categories = tuple(sorted({printable(match[1]) for match in found.values() if match}))
        pairs = []
        for file, match in tqdm(found.items(), str(self.list_path), delay=2, disable=None):
            content = read_json(self.list_path / file, MIB)
            with error_context(str(self.list_path / file), "correct or remove it"):
                if match is None:
                    raise UserError("its name is not of the form <source>-<target>:<category>.json")
                src_key, trg_key = (image_key(content, f"{end}_json_path") for end in ("src", "trg"))
                category = self.category_id(printable(match[1]))
                pairs.append(Pair(0, src_key, trg_key, category, file=file))
        return pairs

    def complete(self, pair: Pair) -> Pair:
        """The pair with the key-points that are given in both images (v > 0), and both boxes."""
        (src_kps, src_bbox), (trg_kps, trg_bbox) = map(self._annotation, (pair.src_key, pair.trg_key))
        if src_kps.shape != trg_kps.shape:
            raise UserError(f"{len(src_kps)} key-points in {pair.src_key}, {len(trg_kps)} in {pair.trg_key}")
        names = POINTS.split()
        common = (src_kps[:, 2] > 0) & (trg_kps[:, 2] > 0)
        return replace(
            pair,
            src_kps=src_kps[common, :2].T,
            trg_kps=trg_kps[common, :2].T,
            points=tuple(compress(names, common)) if len(common) == len(names) else (),
            src_bbox=src_bbox,
            trg_bbox=trg_bbox,
        )

    def image_annotation(self, key: str) -> ImageAnnotation | None:
        kps, names = self._annotation(key)[0], POINTS.split()
        if len(kps) != len(names):
            return None
        return ImageAnnotation({n: (x, y) for n, (x, y, v) in zip(names, kps.tolist(), strict=True) if v > 0})

    @classmethod
    def point_groups(cls, category: str) -> PointGroups | None:
        return point_groups("ap10k", tuple(POINTS.split()))

    def _annotation(self, key: str) -> tuple[Array, Array]:
        """Key-points [P, 3] (x, y, v) and box of the animal of an image."""
        if key not in self._annotations:
            path = self.root / "ImageAnnotation" / Path(key).relative_to("JPEGImages").with_suffix(".json")
            content = read_json(path, MIB)
            with error_context(str(path)):
                if not isinstance(content, dict):
                    raise UserError("it is no annotation of an animal")
                kps, box = parse_keypoints(content.get("keypoints")), parse_box(content.get("bbox"))
                if box is None:
                    raise UserError("the animal has no box")
                self.check_points(kps[kps[:, 2] > 0, :2].T)
                self._annotations[key] = kps, checked_box(box)
        return self._annotations[key]


def image_key(content: Any, field: str) -> str:
    """The image of the annotation that a pair names: only the part from ImageAnnotation on counts."""
    path = content.get(field) if isinstance(content, Mapping) else None
    parts = path_parts(path) if isinstance(path, str) else ()
    if "ImageAnnotation" not in parts or not parts[-1].endswith(".json"):
        raise UserError(f"{field} is {short_repr(path)}, not .../ImageAnnotation/<folders>/<image>.json")
    inside = "/".join(parts[parts.index("ImageAnnotation") + 1 :])
    return f"JPEGImages/{inside.removesuffix('.json')}.jpg"
