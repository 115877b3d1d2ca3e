"""Tiny data of one's own, AP-10K and SPair-U, made like `tiny`'s by the facts: the archives could not be had."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dhpf.data.spairu import SPairU
from tests.helpers import tiny

NAMES = [f"point {k}" for k in range(10)]


def flat(view: tiny.View, absent: int) -> list[float]:
    """A view's key-points as x, y, v; one of them not given."""
    return [
        value
        for k, (x, y) in enumerate(view.points.tolist())
        for value in ((0, 0, 0) if k == absent else (x, y, 1 + k % 2))
    ]


def corner_and_size(view: tiny.View) -> list[float]:
    x1, y1, x2, y2 = view.box
    return [x1, y1, x2 - x1, y2 - y1]


def coco(folder: Path, categories: tuple[str, ...] = ("cat", "dog")) -> dict[str, Any]:
    """The content of a COCO file; images in folder/images. Image k of a category lacks key-point k."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for c, category in enumerate(categories):
        content["categories"].append({"id": c + 1, "name": category, "keypoints": NAMES})
        for k, view in enumerate(tiny.views(category)):
            number, name = 10 * c + k, f"{category}_{k}.jpg"
            tiny.save(view.image, folder / "images" / name)
            width, height = view.image.size
            content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
            annotation = {"id": number, "image_id": number, "category_id": c + 1, "iscrowd": 0}
            annotation |= {"keypoints": flat(view, k), "bbox": corner_and_size(view)}
            content["annotations"].append(annotation)
    return content


def make_coco(folder: Path, content: dict[str, Any] | None = None) -> Path:
    """folder/own.json; returns its path."""
    content = coco(folder) if content is None else content
    (folder / "own.json").write_text(json.dumps(content))
    return folder / "own.json"


def make_table(folder: Path, boxes: bool = True, pairs: int = 4) -> Path:
    """folder/pairs.csv, the lines of its pairs mixed, of which the second has no category; returns its path."""
    rows: list[list[object]] = []
    for n, (category, *order) in enumerate(tiny.pairs_of(("cat", "dog"), "trn", pairs)):
        source, target = (tiny.views(category)[k] for k in order)
        names = [f"images/{category}_{k}.jpg" for k in order]
        for name, image in zip(names, (source.image, target.image), strict=True):
            tiny.save(image, folder / name)
        for k, ends in enumerate(np.hstack([source.points, target.points]).tolist()):
            rows.append([*names, *ends, category * (n != 1), NAMES[k], *target.box * boxes])
    header = ["source", "target", "source_x", "source_y", "target_x", "target_y", "category", "point"]
    path = folder / "pairs.csv"
    tiny.write_csv(path, [[*header, *["x1", "y1", "x2", "y2"] * boxes], *rows[::2], *rows[1::2]])
    return path


def make_spairu(root: Path) -> Path:
    """root/SPair-U beside root/SPair-71k; every second pair has an annotation. Returns root."""
    spair = tiny.make_spair(root) / "SPair-71k"
    folder = root / SPairU.folder
    folder.mkdir()
    for linked in ("Layout", "JPEGImages"):
        (folder / linked).symlink_to(spair / linked)
    for split in tiny.SPLITS:
        to = folder / "PairAnnotation" / split
        to.mkdir(parents=True)
        for path in sorted((spair / "PairAnnotation" / split).iterdir())[::2]:
            source, target = path.stem.partition("-")[2].partition(":")[0].split("-")
            content = json.loads(path.read_text()) | {
                "src_imname": f"{source}.jpg",
                "trg_imname": f"{target}.jpg",
            }
            content |= {f"{end}_kps": content[f"{end}_kps"][:4] for end in ("src", "trg")}
            (to / path.name).write_text(json.dumps(content))
    return root
