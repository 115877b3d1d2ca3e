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
import skimage
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import corner_shi_tomasi, peak_local_max
from torch import Tensor
from torch.nn.functional import grid_sample

from dhpf.data.benchmark import Benchmark, Pair
from dhpf.data.images import opened_image, to_rgb
from dhpf.data.warp import RADIUS, Array, Similarity, draw_warp, pixel_grid

Mask = NDArray[np.bool_]

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
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
SALIENT_PERCENTILE = 80  # of a photograph's corner response: it counts as 1, the least of a key-point
MARGIN = 3.0  # least distance in pixels of a key-point from the border of what is seen of its object


@lru_cache(maxsize=32)
def photograph(name: str, shorter: int = 256) -> Tensor:
    """A photograph [4, H, W] with its shorter side as given: red, green, blue in [0, 1]; corner response."""
    with opened_image(PHOTOGRAPHS / name) as file:
        image = to_rgb(file)
    ratio = shorter / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.LANCZOS)
    colours = np.asarray(image, dtype=np.float32) / 255
    response = corner_shi_tomasi(colours.mean(-1), sigma=2)
    response = (response / np.percentile(response, SALIENT_PERCENTILE)).astype(np.float32)
    return torch.from_numpy(np.concatenate((colours, response[..., None]), -1)).permute(2, 0, 1)


def draw_crop(rng: np.random.Generator, photo: Tensor, smallest: float, largest: float) -> Similarity:
    """A random square in a photograph, half a side of smallest to largest pixels; (±1, ±1) are its corners."""
    half, (height, width) = rng.uniform(smallest, largest), photo.shape[1:]
    return Similarity(half, rng.uniform(half, (width - half, height - half)))


def sample(photo: Tensor, points: Array) -> Tensor:
    """photo [C, H, W] at points [2, h, w], bilinear, mirrored beyond its edges: [C, h, w]."""
    height, width = photo.shape[1:]
    grid = np.stack((points[0] * (2 / (width - 1)) - 1, points[1] * (2 / (height - 1)) - 1), -1)
    places = torch.from_numpy(grid.astype(np.float32))[None]
    return grid_sample(photo[None], places, padding_mode="reflection", align_corners=True)[0]


def find_corners(response: Tensor, mask: Mask, gap: int) -> Array:
    """The salient corners [2, n] at set pixels of a mask, more than `gap` pixels apart, the strongest first."""
    y, x = peak_local_max(response.numpy(), min_distance=gap, threshold_abs=1).T
    return np.stack((x, y))[:, mask[y, x]].astype(np.float64)


def in_mask(mask: Mask, points: Array) -> Mask:
    """Whether points [2, n] are at set pixels of a mask [h, w], False outside: bool [n]."""
    (x, y), (height, width) = points, mask.shape
    framed: Mask = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    column, row = (np.rint(points) * framed).astype(int)
    return framed & mask[row, column]


class Scene(NamedTuple):
    """A drawn pair, (source, target) each: images, key-points [2, n] and boxes [4] in their pixels."""

    images: tuple[Image.Image, Image.Image]
    kps: tuple[Array, Array]
    boxes: tuple[Array, Array]


class Outline(NamedTuple):
    """A random blob of mean radius 1: the harmonics 2, 3 and 4 of its radius, amplitude [3] and phase [3]."""

    amplitude: Array
    phase: Array

    def depth(self, points: Array) -> Array:
        """How far points [2, ...] of the object are inside, along the radius: [...], negative outside."""
        radius = np.sqrt((points**2).sum(0))
        cos, sin = points / np.maximum(radius, 1e-9)
        border, cos_k, sin_k = np.ones_like(radius), cos, sin
        for amplitude, phase in zip(self.amplitude, self.phase, strict=True):
            cos_k, sin_k = cos_k * cos - sin_k * sin, sin_k * cos + cos_k * sin  # of one more times the angle
            border += amplitude * (np.cos(phase) * cos_k - np.sin(phase) * sin_k)
        return border - radius


def occlude(rng: np.random.Generator, frame: Array, depth: Array) -> Array:
    """The depth (pixels) inside an object's outline at a frame's points, less one to three round occluders."""
    (x, y), inside = frame, np.flatnonzero(depth > 0)
    for k in rng.choice(inside, size=rng.integers(1, 4)):
        distance = np.sqrt((x - x.flat[k]) ** 2 + (y - y.flat[k]) ** 2)  # np.hypot takes four times as long
        depth = np.minimum(depth, distance - rng.uniform(0.03, 0.09) * len(depth))
    return depth


def photographed(rng: np.random.Generator, image: Tensor) -> Image.Image:
    """An image [3, h, w] in [0, 1] as another camera in another light might take it: colours mixed, gamma, contrast,
    colour balance, brightness, noise; in 8 bits."""
    mix = np.diag(rng.uniform(0.2, 1, 3)) + rng.uniform(0, 0.4, (3, 3))
    mixed = torch.from_numpy(mix / mix.sum(1, keepdims=True)).float() @ image.flatten(1)
    gain = torch.from_numpy(rng.uniform(0.5, 1.2) * rng.uniform(0.8, 1.2, (3, 1))).float()
    lit = (mixed ** rng.uniform(0.5, 2) - 0.5) * gain + rng.uniform(0.42, 0.58)
    noise = torch.from_numpy(rng.standard_normal(lit.shape, np.float32)) * rng.uniform(0, 0.08)
    return as_image((lit + noise).clamp(0, 1).view_as(image))


def as_image(values: Tensor) -> Image.Image:
    """[3, h, w] in [0, 1] as an 8-bit image."""
    return Image.fromarray((values * 255).round().byte().permute(1, 2, 0).numpy())


def draw_scene(rng: np.random.Generator, name: str, others: Sequence[str], side: int) -> Scene:
    """A warped pair of an object in photograph `name`, drawn again until both frames show MIN_PTS of its corners."""
    photo, frame = photograph(name), pixel_grid(side, side)
    while True:
        crop, warp = draw_crop(rng, photo, 80, 125), draw_warp(rng, side)
        outline = Outline(rng.normal(scale=(0.12, 0.1, 0.08)), 2 * np.pi * rng.uniform(size=3))
        objects = warp.source.inverse(frame), warp.from_target(frame)
        depths = [outline.depth(points) * RADIUS * side for points in objects]
        visible = [occlude(rng, frame, depth) for depth in depths]
        layers = [sample(photo, crop(0.8 * points)) for points in objects]
        trg_kps = find_corners(layers[1][3], visible[1] > MARGIN, side // 20)
        src_kps = warp.to_source(trg_kps)
        chosen = np.flatnonzero(in_mask(visible[0] > MARGIN, src_kps))[:MAX_PTS]
        if len(chosen) >= MIN_PTS:
            break
    images, boxes = [], []
    for layer, depth, seen in zip(layers, depths, visible, strict=True):
        other = photograph(rng.choice(others))
        background = sample(other, draw_crop(rng, other, 70, 128)(frame * (2 / side) - 1))
        # An occluder shows another part of the background.
        around = torch.where(torch.from_numpy(depth > 0), background.flip(1, 2), background)
        share = torch.from_numpy(seen + 0.5).float().clamp(0, 1)
        images.append(photographed(rng, (share * layer + (1 - share) * around)[:3]))
        y, x = np.nonzero(depth > 0)
        boxes.append(np.array((x.min(), y.min(), x.max(), y.max()), np.float64))
    return Scene((images[0], images[1]), (src_kps[:, chosen], trg_kps[:, chosen]), (boxes[0], boxes[1]))


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
        _, (src_kps, trg_kps), (src_bbox, trg_bbox) = self._scene(pair.line)
        return replace(pair, src_kps=src_kps, trg_kps=trg_kps, src_bbox=src_bbox, trg_bbox=trg_bbox)

    def size(self, key: str) -> tuple[int, int]:
        return self.img_side, self.img_side

    @contextmanager
    def open_image(self, key: str) -> Iterator[Image.Image]:
        _, index, end = key.split("/")
        yield self._scene(int(index)).images[end == "target"]

    def where(self, i: int) -> str:
        return f"benchmark synthetic, split {self.split}, pair {i}"

    def _scene(self, index: int) -> Scene:
        return draw(self.seed, self.split, index, self.img_side)
