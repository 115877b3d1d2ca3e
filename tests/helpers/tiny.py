"""Tiny benchmarks in the published folder layouts, for tests that have no real data.

The images of a category are different crops of one texture, so their key-points really correspond.
"""

import csv
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from dhpf import data
from dhpf.data import caltech, pfwillow, spair
from dhpf.data.caltech import Caltech
from dhpf.data.pfpascal import PFPascal
from dhpf.data.pfwillow import PFWillow
from dhpf.data.spair import SPair

SPLITS = ("trn", "val", "test")
IMAGES = 4  # of a category
CANVAS = 400
# On the canvas, inside every crop: 10 points, as many as PF-WILLOW needs; the same ring is Caltech's outline.
RING = CANVAS / 2 + 80 * np.array(
    [[np.cos(a), np.sin(a)] for a in np.linspace(0, 2 * np.pi, 10, endpoint=False)]
)


@dataclass
class View:
    """One image of a category: file name, key-points [10, 2] and box x1 y1 x2 y2 in its pixels."""

    name: str
    image: Image.Image
    points: NDArray[np.float64]
    box: list[float]


def views(category: str) -> list[View]:
    """The images of a category, each with its own crop and size."""
    rng = np.random.default_rng(zlib.crc32(category.encode()))
    noise = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    canvas = noise.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    result = []
    for k in range(IMAGES):
        corner, size = rng.uniform(0, 80, 2), rng.integers(120, 200, 2)
        extent = rng.uniform(320, 400 - corner.max())
        box = (*corner, *(corner + extent))
        image = canvas.resize(tuple(size.tolist()), Image.Resampling.BILINEAR, box=box)
        points = (RING - corner) * size / extent
        edges = [*(points.min(0) - 2), *(points.max(0) + 2)]
        result.append(View(f"2008_00000{k}", image, points, [round(float(edge), 2) for edge in edges]))
    return result


def pairs_of(categories: tuple[str, ...], split: str, pairs: int) -> Iterator[tuple[str, int, int]]:
    """(category, source image, target image), categories in turn; each split starts elsewhere."""
    orders = list(permutations(range(IMAGES), 2))
    start = SPLITS.index(split) * pairs // len(categories)
    for n in range(pairs):
        source, target = orders[(start + n // len(categories)) % len(orders)]
        yield categories[n % len(categories)], source, target


def write_csv(path: Path, rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def make_pfpascal(root: Path, pairs: int = 8, categories: tuple[str, ...] = ("cat", "dog")) -> Path:
    """root/PF-PASCAL with `pairs` pairs a split; image k of a category lacks key-point k.  Returns root."""
    folder = root / PFPascal.folder
    for category in categories:
        for k, view in enumerate(views(category)):
            name = f"{view.name}_{category}"
            save(view.image, folder / "JPEGImages" / f"{name}.jpg")
            kps = view.points.copy()
            kps[k] = np.nan
            annotation = folder / "Annotations" / category / f"{name}.mat"
            annotation.parent.mkdir(parents=True, exist_ok=True)
            savemat(annotation, {"kps": kps, "bbox": np.array([view.box])})
    for split in SPLITS:
        rows: list[list[object]] = [["source_image", "target_image", "class", "flip"]]
        for n, (category, *order) in enumerate(pairs_of(categories, split, pairs)):
            names = [f"2008_00000{k}_{category}.jpg" for k in order]
            rows.append([*names, PFPascal.categories.index(category) + 1, n % 2 if split == "trn" else 0])
        write_csv(folder / f"{split}_pairs.csv", rows)
    return root


def make_pfwillow(root: Path, pairs: int = 8, categories: tuple[str, ...] = ("car(G)", "duck(S)")) -> Path:
    """root/PF-WILLOW with `pairs` test pairs.  Returns root."""
    folder = root / PFWillow.folder
    shown = {category: views(category) for category in categories}
    for category in categories:
        for view in shown[category]:
            save(view.image, folder / category / f"{view.name}.png")
    rows: list[list[object]] = [list(pfwillow.COLUMNS)]
    for category, *order in pairs_of(categories, "test", pairs):
        both = [shown[category][k] for k in order]
        paths = [f"PF-dataset/{category}/{view.name}.png" for view in both]
        rows.append([*paths, *(value for view in both for axis in view.points.T for value in axis)])
    write_csv(folder / "test_pairs.csv", rows)
    return root


def make_caltech(root: Path, pairs: int = 8, categories: tuple[str, ...] = ("airplanes", "panda")) -> Path:
    """root/Caltech-101 with `pairs` test pairs; image k lacks the last k vertices.  Returns root."""
    folder = root / Caltech.folder
    shown = {category: views(category) for category in categories}
    for category in categories:
        for view in shown[category]:
            save(view.image, folder / "101_ObjectCategories" / category / f"{view.name}.jpg")
    rows: list[list[object]] = [list(caltech.COLUMNS)]
    for category, *order in pairs_of(categories, "test", pairs):
        paths = [f"101_ObjectCategories/{category}/{shown[category][k].name}.jpg" for k in order]
        outlines = [shown[category][k].points[: 10 - k].T for k in order]
        lists = [",".join(f"{value:.4f}" for value in axis) for outline in outlines for axis in outline]
        rows.append([*paths, Caltech.categories.index(category) + 1, *lists])
    write_csv(folder / "test_pairs_caltech_with_category.csv", rows)
    return root


def make_spair(root: Path, pairs: int = 8, categories: tuple[str, ...] = ("cat", "dog")) -> Path:
    """root/SPair-71k with `pairs` pairs a split, grades of difficulty 0 to 2.  Returns root."""
    folder = root / SPair.folder
    shown = {category: views(category) for category in categories}
    for category in categories:
        for view in shown[category]:
            save(view.image, folder / "JPEGImages" / category / f"{view.name}.jpg")
    for split in SPLITS:
        lines = []
        for n, (category, *order) in enumerate(pairs_of(categories, split, pairs)):
            source, target = (shown[category][k] for k in order)
            lines.append(f"{n:06d}-{source.name}-{target.name}:{category}")
            content = {"src_kps": source.points.tolist(), "trg_kps": target.points.tolist()}
            content |= {"src_bndbox": source.box, "trg_bndbox": target.box, "category": category}
            content |= dict.fromkeys(spair.DIFFICULTY, n % 3)
            path = folder / "PairAnnotation" / split / f"{lines[-1]}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
        layout = folder / "Layout" / "large" / f"{split}.txt"
        layout.parent.mkdir(parents=True, exist_ok=True)
        layout.write_text("\n".join(lines) + "\n")
    return root


MAKERS = {"pfpascal": make_pfpascal, "pfwillow": make_pfwillow, "caltech": make_caltech, "spair": make_spair}
BENCHMARKS = {name: data.BENCHMARKS[name] for name in MAKERS}
