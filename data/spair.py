"""SPair-71k: 18 classes, one line of a list and one JSON file per pair (docs/method.md, section 9)."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dhpf.common.download import DRIVE
from dhpf.common.errors import UserError, naming
from dhpf.common.files import MIB, read_text
from dhpf.data.benchmark import Array, Benchmark, Pair
from dhpf.data.lists import MAX_LIST_BYTES

# 000001-<source>-<target>:<category>
LINE = re.compile(r"\d+-([\w.]+)-([\w.]+):(\w+)")
DIFFICULTY = MappingProxyType(
    {
        "viewpoint_variation": ("easy", "medium", "hard"),
        "scale_variation": ("easy", "medium", "hard"),
        "truncation": ("none", "source", "target", "both"),
        "occlusion": ("none", "source", "target", "both"),
    }
)
UNKNOWN = -1
CATEGORIES = """
    aeroplane bicycle bird boat bottle bus car cat chair cow dog horse motorbike person pottedplant sheep
    train tvmonitor
"""


class SPair(Benchmark):
    """SPair-71k.  Samples have boxes and four grades of difficulty, -1 where unknown."""

    name = "spair"
    folder = "SPair-71k"
    archive = (
        DRIVE + "1KSvB0k2zXA06ojWNvFjBv0Ake426Y76k",
        "https://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz",
    )
    list_name = "Layout/large/{split}.txt"
    categories = tuple(CATEGORIES.split())
    splits = ("trn", "val", "test")
    thresholds = ("img", "bbox", "bbox-kp")
    auto_thres = "bbox"
    labels = DIFFICULTY
    paper = MappingProxyType({"average": "pairs", "frame": "240x240 frame", "thres": "bbox"})

    def read_pairs(self) -> list[Pair]:
        """All pairs of the list; their key-points stay in 53,340 files until they are needed."""
        lines = read_text(self.list_path, MAX_LIST_BYTES).rstrip().splitlines()
        pairs = []
        for number, line in enumerate(lines, start=1):
            match = LINE.fullmatch(line.strip())
            with naming(f"{self.list_path}, line {number}"):
                if match is None:
                    raise UserError(f"'{line}' is not of the form 000001-<source>-<target>:<category>")
                source, target, category = match.groups()
                category_id = self.category_id(category)
                src_key, trg_key = (f"JPEGImages/{category}/{image}.jpg" for image in (source, target))
                pairs.append(Pair(number, src_key, trg_key, category_id, file=f"{match[0]}.json"))
        return pairs

    def complete(self, pair: Pair) -> Pair:
        """The pair with the annotation of its own file."""
        return replace(pair, **read_annotation(self.root / "PairAnnotation" / self.split / pair.file))


def read_annotation(path: Path) -> dict[str, Any]:
    """Key-points [2, n], boxes [4] and grades of difficulty of one pair, as fields of `Pair`."""
    text = read_text(path, MIB)
    try:
        content = json.loads(text)
        annotation = {f"{end}_kps": as_points(content[f"{end}_kps"]) for end in ("src", "trg")}
        boxes = {
            f"{end}_bbox": np.array(content[f"{end}_bndbox"], dtype=np.float64) for end in ("src", "trg")
        }
        labels = {name: int(content.get(name, UNKNOWN)) for name in DIFFICULTY}
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not the annotation of a pair ({error!r})") from error
    counts = [kps.shape[1] for kps in annotation.values()]
    if counts[0] != counts[1]:
        raise UserError(f"{path}: {counts[0]} key-points in the source, {counts[1]} in the target")
    if any(box.shape != (4,) for box in boxes.values()):
        raise UserError(f"{path}: a box is not four numbers")
    return {**annotation, **boxes, "labels": labels}


def as_points(values: list[list[float]]) -> Array:
    """A list of [x, y] as [2, n]."""
    return np.array(values, dtype=np.float64).reshape(len(values), 2).T
