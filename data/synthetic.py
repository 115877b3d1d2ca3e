"""The benchmark 'synthetic': image pairs drawn on the fly, with key-points known exactly and nothing to download.

A pair shows one object, a blob cut out of a photograph, in two frames: in the source after a similarity, in the
target after another similarity and a thin-plate-spline deformation.  Each frame has a background (another photograph
of the split), occluders, a light and camera noise of its own.  All maps in use are explicit (target -> object ->
source), so key-points carry no numerical error.  A pair follows from (seed, split, index) alone: any worker, any order.

Photographs by split are disjoint.  Testing takes the three everyday objects in colour, which are nearest to the
real benchmarks: cat, cup and motorcycle.  Validation takes the camera man and the coins, training all else that has
enough corners to match, from the astronaut to a page of text; what lacks them or only repeats serves as background.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dhpf.data.benchmark import Benchmark, Pair
from dhpf.data.photographs import (
    PHOTOGRAPHS,
    as_image,
    corners,
    draw_crop,
    holds,
    photograph,
    sample,
)
from dhpf.data.warp import RADIUS, Points, Reals, Similarity, as_reals, box_around, draw_warp, pixels

LENGTHS = {"trn": 160, "val": 24, "test": 48}
OBJECTS = {
    "trn": ("astronaut.png", "ihc.png", "page.png", "retina.jpg", "text.png"),
    "val": ("camera.png", "coins.png"),
    "test": ("chelsea.png", "coffee.png", "motorcycle_left.png"),
}
BACKGROUNDS = {  # besides the split's other objects
    "trn": ("brick.png", "grass.png", "hubble_deep_field.jpg", "moon.png", "rocket.jpg"),
    "val": ("gravel.png",),
    "test": (),
}
MIN_PTS, MAX_PTS = 8, 16
MARGIN = 3.0  # least distance in pixels of a key-point from the border of what is seen of its object


class Scene(NamedTuple):
    """A drawn pair, (source, target) each: images, key-points [n] and boxes [4] in their pixels."""

    images: tuple[Image.Image, Image.Image]
    kps: tuple[Points, Points]
    boxes: tuple[Reals, Reals]


def draw_outline(rng: np.random.Generator) -> Points:
    """A random blob of mean radius 1: the harmonics 2 to 4 of its radius."""
    return rng.normal(scale=(0.12, 0.1, 0.08)) * np.exp(2j * np.pi * rng.uniform(size=3))


def depth_inside(outline: Points, points: Points) -> Reals:
    """How far points of the object are inside its outline, along the radius; negative outside."""
    radius = np.abs(points)
    direction = points / np.maximum(radius, 1e-9)
    second, third, fourth = outline
    return 1 + (direction**2 * (second + direction * (third + direction * fourth))).real - radius


def occluded(rng: np.random.Generator, depth: Reals) -> Reals:
    """The depth (pixels) inside an object's outline [side, side], less one to three round occluders."""
    frame = pixels(*depth.shape)
    for centre in rng.choice(frame[depth > 0], size=rng.integers(1, 4)):
        depth = np.minimum(depth, np.abs(frame - centre) - rng.uniform(0.03, 0.09) * len(depth))
    return depth


def taken(rng: np.random.Generator, image: Tensor) -> Tensor:
    """An image [3, h, w] in [0, 1] as another camera in another light might take it: colours mixed, gamma, contrast,
    colour balance, brightness, noise."""
    mix = np.diag(rng.uniform(0.2, 1, 3)) + rng.uniform(0, 0.4, (3, 3))
    mixed = torch.from_numpy(mix / mix.sum(1, keepdims=True)).float() @ image.flatten(1)
    gain = torch.from_numpy(rng.uniform(0.5, 1.2) * rng.uniform(0.8, 1.2, (3, 1))).float()
    lit = (mixed ** rng.uniform(0.5, 2) - 0.5) * gain + rng.uniform(0.42, 0.58)
    noise = torch.from_numpy(rng.standard_normal(lit.shape, np.float32)) * rng.uniform(0, 0.08)
    return (lit + noise).clamp(0, 1).view_as(image)


def draw_scene(rng: np.random.Generator, name: str, others: Sequence[str], side: int) -> Scene:
    """A warped pair of an object in photograph `name`, drawn again until both frames show MIN_PTS of its corners."""
    photo, frame, unit = photograph(name), pixels(side, side), Similarity(2 / side, -1 - 1j)
    while True:
        crop, warp, outline = draw_crop(rng, photo, 80, 125), draw_warp(rng, side), draw_outline(rng)
        objects = warp.from_source(frame), warp.from_target(frame)
        depths = [depth_inside(outline, points) * RADIUS * side for points in objects]
        clear = [occluded(rng, depth) for depth in depths]
        layers = [sample(photo, crop(0.8 * points)) for points in objects]
        trg_kps = corners(layers[1][3], clear[1] > MARGIN, side // 20)
        src_kps = warp.to_source(trg_kps)
        kept = np.flatnonzero(holds(clear[0] > MARGIN, src_kps))[:MAX_PTS]
        if len(kept) >= MIN_PTS:
            break
    images = []
    for layer, depth, distance in zip(layers, depths, clear, strict=True):
        other = photograph(rng.choice(others))
        behind = sample(other, draw_crop(rng, other, 70, 128)(unit(frame)))
        # An occluder shows another part of the background.
        around = torch.where(torch.from_numpy(depth > 0), behind.flip(1, 2), behind)
        share = torch.from_numpy(distance + 0.5).float().clamp(0, 1)
        images.append(as_image(taken(rng, (share * layer + (1 - share) * around)[:3])))
    src_box, trg_box = (box_around(frame[depth > 0]) for depth in depths)
    return Scene((images[0], images[1]), (src_kps[kept], trg_kps[kept]), (src_box, trg_box))


@lru_cache(maxsize=256)  # a split at 240 x 240 is some 50 MB; workers keep it from epoch to epoch
def draw(seed: int, split: str, index: int, side: int) -> Scene:
    """Pair `index` of a split."""
    rng = np.random.default_rng((seed, list(LENGTHS).index(split), index))
    name = OBJECTS[split][index % len(OBJECTS[split])]
    others = [other for other in OBJECTS[split] + BACKGROUNDS[split] if other != name]
    return draw_scene(rng, name, others, side)


class Synthetic(Benchmark):
    """The benchmark 'synthetic', see the module. Boxes are the object's; a category is a photograph.

    Args: those of `Benchmark`, though nothing is read at datapath; another seed gives other pairs of the same
    photographs.
    """

    name = "synthetic"
    folder = PHOTOGRAPHS.name
    categories = tuple(dict.fromkeys(Path(name).stem for names in OBJECTS.values() for name in names))
    splits = tuple(LENGTHS)
    thresholds = ("img", "bbox")
    auto_thres = "bbox"

    def __init__(self, datapath: str | Path, *args: Any, seed: int = 0, **named: Any) -> None:
        self.seed = seed
        super().__init__(PHOTOGRAPHS.parent, *args, **named)

    def read_pairs(self) -> list[Pair]:
        ids = [self.category_id(Path(name).stem) for name in OBJECTS[self.split]]
        return [
            Pair(i, f"{self.split}/{i}/source", f"{self.split}/{i}/target", ids[i % len(ids)])
            for i in range(LENGTHS[self.split])
        ]

    def complete(self, pair: Pair) -> Pair:
        _, kps, (src_bbox, trg_bbox) = self._scene(pair.line)
        src_kps, trg_kps = (as_reals(points).T for points in kps)
        return replace(pair, src_kps=src_kps, trg_kps=trg_kps, src_bbox=src_bbox, trg_bbox=trg_bbox)

    def size(self, key: str) -> tuple[int, int]:
        return self.img_side, self.img_side

    @contextmanager
    def opened(self, key: str) -> Iterator[Image.Image]:
        _, index, end = key.split("/")
        yield self._scene(int(index)).images[end == "target"]

    def where(self, i: int) -> str:
        return f"benchmark synthetic, split {self.split}, pair {i}"

    def _scene(self, index: int) -> Scene:
        return draw(self.seed, self.split, index, self.img_side)
