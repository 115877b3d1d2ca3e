"""SPair-71k: 18 classes, one line of a list and one JSON file per pair (docs/method.md, section 9)."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dhpf.common.errors import UserError, error_context
from dhpf.common.files import MIB, is_file, read_json, read_text
from dhpf.data.benchmark import UNKNOWN, Benchmark, Pair
from dhpf.data.image_annotation import ImageAnnotation, PointGroups, parse_spair, point_groups
from dhpf.data.layout import is_named
from dhpf.data.lists import MAX_LIST_BYTES, at_line
from dhpf.data.published_lists import Published

IMAGES = re.compile(r"\d+-([\w.]+)-([\w.]+)")
DIFFICULTY = MappingProxyType(
    {
        "viewpoint_variation": ("easy", "medium", "hard"),
        "scale_variation": ("easy", "medium", "hard"),
        "truncation": ("none", "source", "target", "both"),
        "occlusion": ("none", "source", "target", "both"),
    }
)
CATEGORIES = """
    aeroplane bicycle bird boat bottle bus car cat chair cow dog horse motorbike person pottedplant sheep
    train tvmonitor
"""


class SPair(Benchmark):
    """SPair-71k.  Samples have boxes and four grades of difficulty, -1 where unknown."""

    name = "spair"
    folder = "SPair-71k"
    subfolders = ("PairAnnotation",)
    never_holds = ("ImageAnnotation/*/*/", "PairAnnotation/*_cross_*")
    lists = ("Layout/large/{split}.txt", "Layout/small/{split}.txt", "PairAnnotation/{split}")
    published = MappingProxyType(
        {"trn": Published(53_340), "val": Published(5_384), "test": Published(12_234)}
    )
    categories = tuple(CATEGORIES.split())
    splits = ("trn", "val", "test")
    thresholds = ("img", "bbox", "bbox-kp")
    auto_thres = "bbox"
    labels = DIFFICULTY
    paper = MappingProxyType({"average": "pairs", "frame": "240x240 frame", "thres": "bbox"})

    @classmethod
    def find_folder(cls, datapath: Path) -> Path | None:
        """The benchmark's folder, if it is there. SPair-U's looks the same: its name alone tells which it is."""
        found = super().find_folder(datapath)
        return found if found and is_named(found, ["SPair-U"]) == (cls.name == "spairu") else None

    def read_pairs(self) -> list[Pair]:
        """All pairs of the list, or of the folder of annotations; these stay in 53,340 files until they are needed."""
        self._image_annotations: dict[str, ImageAnnotation | None] = {}
        if self.list_path.is_dir():
            files = sorted(file.name for file in self.list_path.glob("*.json"))
            return [self._pair(0, file.removesuffix(".json")) for file in files]
        pairs = []
        for number, line in enumerate(read_text(self.list_path, MAX_LIST_BYTES).splitlines(), start=1):
            if line.strip():
                with at_line(self.list_path, number):
                    pairs.append(self._pair(number, line.strip()))
        return pairs

    def _pair(self, number: int, line: str) -> Pair:
        """The pair 000001-<source>-<target>:<category>; Windows has _<category>, as no file name there has a colon."""
        images, colon, category = line.rpartition(":")
        if not colon:
            category = next((name for name in self.categories if line.endswith(f"_{name}")), "")
            images = line.removesuffix(f"_{category}")
        match = IMAGES.fullmatch(images)
        if not match or not category:
            raise UserError(f"'{line}' is not of the form 000001-<source>-<target>:<category>")
        src_key, trg_key = (f"JPEGImages/{category}/{image}.jpg" for image in match.groups())
        return Pair(number, src_key, trg_key, self.category_id(category), file=f"{images}:{category}.json")

    def complete(self, pair: Pair) -> Pair:
        """The pair with the annotation of its own file."""
        return replace(pair, **read_annotation(self.annotation_file(pair)))

    def image_annotation(self, key: str) -> ImageAnnotation | None:
        """That of `ImageAnnotation`, where the folder has it."""
        if key not in self._image_annotations:
            path = self.root / "ImageAnnotation" / Path(key).relative_to("JPEGImages").with_suffix(".json")
            content = read_json(path, MIB) if is_file(path) else None
            with error_context(str(path)):
                self._image_annotations[key] = None if content is None else parse_spair(content)
        return self._image_annotations[key]

    @classmethod
    def point_groups(cls, category: str) -> PointGroups | None:
        return point_groups(category)

    def annotation_file(self, pair: Pair) -> Path:
        folder = self.root / "PairAnnotation" / self.split
        windows = folder / pair.file.replace(":", "_")
        return windows if is_file(windows) else folder / pair.file


def read_annotation(path: Path) -> dict[str, Any]:
    """Key-points [2, n] that both images have, boxes [4] and grades of difficulty of one pair, as fields of `Pair`."""
    text = read_text(path, MIB)
    try:
        content = json.loads(text)
        source, target = ([parse_point(point) for point in content[f"{end}_kps"]] for end in ("src", "trg"))
        if len(source) != len(target):
            raise UserError(f"{path}: {len(source)} key-points in the source, {len(target)} in the target")
        common = [n for n, ends in enumerate(zip(source, target, strict=True)) if None not in ends]
        src_kps, trg_kps = (
            np.array([points[n] for n in common], np.float64).reshape(len(common), 2).T
            for points in (source, target)
        )
        names = content.get("kps_ids") or ()
        points = tuple(str(names[n]) for n in common) if len(names) == len(source) else ()
        boxes = {f"{end}_bbox": np.array(content[f"{end}_bndbox"], np.float64) for end in ("src", "trg")}
        labels = {name: int(content.get(name, UNKNOWN)) for name in DIFFICULTY}
    except (LookupError, AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not the annotation of a pair ({error!r})") from error
    if any(box.shape != (4,) for box in boxes.values()):
        raise UserError(f"{path}: a box is not four numbers")
    return {"src_kps": src_kps, "trg_kps": trg_kps, "points": points, **boxes, "labels": labels}


def parse_point(value: list[float | None] | None) -> tuple[float | None, float | None] | None:
    """A point given as [x, y] or [x, y, visible]; None where the image has none."""
    if value is None or value == [None, None]:
        return None
    x, y, *visible = value
    return None if visible and not visible[0] else (x, y)
