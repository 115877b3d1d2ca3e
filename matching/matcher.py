"""Matching of one's own images, in their own pixels.

    from dhpf.matching.matcher import Matcher
    matcher = Matcher.load("best_model.pt")  # or the name of a backbone, whose raw features need no checkpoint
    found = matcher.match("a.jpg", "b.jpg", [(120, 80), (64.5, 200)])
    found.points, found.confidence, found.layers, found.warped()

Points are (x, y) in pixels of the image that they belong to; the centre of its first pixel is (0, 0).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.interpolate import RBFInterpolator
from torch import Tensor
from torch.nn.functional import grid_sample

from dhpf.common.errors import UserError, error_context
from dhpf.common.processes import choose_device
from dhpf.data.images import normalised, on_white, opened_image, shrunk, upright
from dhpf.data.options import MAX_PIXELS
from dhpf.model import BACKBONES
from dhpf.model.ablation import Ablation
from dhpf.model.compiled import CompiledDHPF
from dhpf.model.dhpf import DHPF, Matches
from dhpf.model.features import ImageFeatures
from dhpf.model.grid import check_frame
from dhpf.model.options import DEFAULT_VOTING
from dhpf.weights.checkpoint import build_model, load_model
from dhpf.weights.released import resolve

Reals = NDArray[np.float64]
Picture = str | Path | Image.Image | NDArray[np.uint8]

VOTED = {"hough": "Hough matching", "none": "no Hough matching"}
# The thin plate of the dense flow:
CELLS = 60  # a side, at most, of the source cells that it is fitted to
KNOTS = 20  # a side; each is the mean of some of these cells
STIFFNESS = 1.0  # of the plate, where sides are 1
OUTLIER = 0.05  # sides of the frame: a match so far off the plate counts half
ROUNDS = 5  # of fitting the plate and weighing the matches anew
TILE = 512  # pixels a side of a source that are warped together


@dataclass(frozen=True)
class Encoded:
    """An image and its features: give it to `Matcher.match` again and it is not encoded again."""

    image: Image.Image
    features: ImageFeatures
    side: int

    @property
    def scale(self) -> Reals:
        """Pixels of the image by pixels of the square frame (method, section 1), (x, y)."""
        return np.array(self.image.size) / self.side

    @cached_property
    def blank(self) -> bool:
        """Whether it has one colour everywhere, so that there is nothing to match."""
        return all(low == high for low, high in np.reshape(self.image.getextrema(), (-1, 2)))


@dataclass(frozen=True)
class Found:
    """What matching a source with a target image gave.

    source: n×2 points in pixels of the source.  points: n×2, where they are in the target, in its pixels.
    confidence: n values in 0..1, the share of the match scores near the best target cell (`confident_targets`); NaN
    where an image is blank.
    layers: the hyperpixel layers that this pair selected.
    """

    source: Reals
    points: Reals
    confidence: Reals
    layers: tuple[int, ...]
    images: tuple[Encoded, Encoded]
    matches: Matches

    def at_least(self, confidence: float) -> "Found":
        """The matches of that confidence or more; all are of 0 or more, those without one too."""
        kept = np.nan_to_num(self.confidence) >= confidence
        return replace(
            self, source=self.source[kept], points=self.points[kept], confidence=self.confidence[kept]
        )

    @cached_property
    def flow(self) -> NDArray[np.float32]:
        """Where each source pixel is in the target, in its pixels: height×width×2 (x, y).

        The best target cells of all source cells, smoothed by a thin plate that forgives outliers.
        """
        width, height = self.images[0].image.size
        flow = np.empty((height, width, 2), np.float32)
        for place, part in self._tiles():
            flow[place] = part
        return flow

    def _tiles(self) -> Iterator[tuple[tuple[slice, slice], NDArray[np.float32]]]:
        """Rows and columns of parts of the source, and the flow there."""
        src, trg = self.images
        plate = torch.from_numpy(_plate(self.matches)).permute(2, 0, 1)[None].float()
        x, y = (torch.arange(n) * (2 / n) - 1 for n in src.image.size)
        for top, left in product(range(0, len(y), TILE), range(0, len(x), TILE)):
            rows, columns = slice(top, top + TILE), slice(left, left + TILE)
            position = torch.stack(torch.meshgrid(x[columns], y[rows], indexing="xy"), -1)
            part = grid_sample(plate, position[None], align_corners=True)[0].permute(1, 2, 0)
            yield (rows, columns), part.numpy() * np.array(trg.image.size, np.float32)

    def warped(self) -> Image.Image:
        """The target warped onto the source, of its size: RGBA, transparent where the target does not reach."""
        src, trg = self.images
        picture = shrunk(trg.image, 2 * max(src.image.size))  # a much larger target would flicker
        size = np.array(picture.size, np.float32)
        scale = size / np.array(trg.image.size, np.float32)
        result = Image.new("RGBA", src.image.size)
        for (rows, columns), flow in self._tiles():
            place = (flow + 0.5) * scale - 0.5
            seen = ((place >= -0.5) & (place <= size - 0.5)).all(-1)
            if not seen.any():
                continue
            place = place.clip(0, size - 1)
            left, top = np.floor(place[seen].min(0)).astype(int)  # what is not seen there is not needed
            right, bottom = np.minimum(np.floor(place[seen].max(0)) + 2, size).astype(int)
            pixels = np.array(picture.crop((left, top, right, bottom)))
            needed = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
            extent = np.maximum(np.array(needed.shape[:1:-1], np.float32) - 1, np.float32(1))
            grid = torch.from_numpy((place - np.array([left, top], np.float32)) * (2 / extent) - 1)
            values = grid_sample(needed, grid[None], padding_mode="border", align_corners=True)[0]
            colours = values.round().byte().permute(1, 2, 0).numpy() * np.expand_dims(seen, 2)
            tile = np.dstack([colours, 255 * seen.astype(np.uint8)])
            result.paste(Image.fromarray(tile), (columns.start, rows.start))
        return result


class Matcher:
    """A model that matches images of any size.

    Args:
        model: in evaluation mode, on its device.
        name: what it is, in words.
        img_side: side of the square frame that images are resized to, a multiple of 4, at least 64.
    Raises:
        UserError: another side.
    """

    def __init__(self, model: DHPF | CompiledDHPF, name: str, img_side: int = 240) -> None:
        check_frame(img_side, img_side)
        self.model = model.eval()
        self.name = name
        self.img_side = img_side

    @classmethod
    def load(
        cls,
        model: str | Path = "efficientnet_lite0",
        *,
        backbone: str | None = None,
        backbone_weights: str | Path | None = None,
        voting: str | None = None,
        img_side: int = 240,
        device: str = "auto",
        layers: tuple[int, ...] | None = None,
        side: int | None = None,
    ) -> "Matcher":
        """A matcher from a checkpoint, or from the name of a backbone.

        A backbone alone has learned nothing for matching: its raw features of all layers go into the Hough
        matching, with no transformation and no gates.

        Args:
            model: file of a checkpoint, a released one (`model.released`), or one of `BACKBONES`, `timm:NAME` too.
            backbone: what the checkpoint belongs to, read from it if not given.
            backbone_weights: file of the backbone's weights, or "random"; fetched if not given.
            layers, side: blocks that are hyperpixel layers, side of the pictures shown to the backbone.
            voting: one of `VOTINGS`; that of the checkpoint if not given, else Hough matching.
        Raises:
            UserError: unusable checkpoint or weights, no such device.
        """
        form: dict[str, Any] = {"layers": layers, "side": side}
        if str(model) in BACKBONES:
            net = build_model(str(model), backbone_weights, voting or DEFAULT_VOTING, **form)
            net.ablate(Ablation(tuple(range(len(net.backbone.channels))), raw=True))
            name = "; ".join(filter(None, [str(model), net.backbone.weights_note]))
        else:
            net, known = load_model(resolve(str(model)), backbone, backbone_weights, voting, **form)
            name = "; ".join(filter(None, [f"{known.backbone} with {model}", known.note]))
        return cls(net.to(choose_device(device)), name, img_side)

    def __str__(self) -> str:
        """What matches, in words."""
        ablation, K = self.model.ablation, len(self.model.backbone.channels)
        if not ablation.unlearned:
            return "; ".join(filter(None, [self.name, self.model.differences]))
        layers = (
            f"all {K} layers"
            if len(ablation.fixed_layers or ()) == K
            else f"layers {listed(ablation.fixed_layers or ())}"
        )
        return (
            f"{self.name}, raw features: nothing here was learned for matching; no transformation, no gates, "
            f"{layers} for every pair, {VOTED.get(self.model.voting, f'voting {self.model.voting}')}"
        )

    @torch.no_grad()
    def encode(self, image: Picture | Encoded) -> Encoded:
        """Code of one image.

        Args:
            image: a file, shown upright if it says how it was held (EXIF); a PIL image, which is kept, or an array
                [H, W, 3] or [H, W] of uint8, as it is.
        Raises:
            UserError: it is no image.
        """
        if isinstance(image, Encoded):
            return image
        picture = as_rgb(image)
        size = self.model.backbone.input_size_for(self.img_side)
        pixels = normalised(picture, size)[None].to(self.model.device)
        return Encoded(picture, self.model.encode(pixels, self.img_side), self.img_side)

    @torch.no_grad()
    def match(self, source: Picture | Encoded, target: Picture | Encoded, points: ArrayLike) -> Found:
        """Where points of one image are in another.

        Args:
            source, target: images, or what `encode` made of them.
            points: n×2 (x, y) in pixels of the source.
        Raises:
            UserError: no image; points that are no points of the source.
        """
        src, trg = self.encode(source), self.encode(target)
        xy = checked_points(points, src.image.size)
        matches = self.model.compare(src.features, trg.features)
        frame = torch.from_numpy((xy / src.scale).T).to(matches.scores.column_max)[None]
        moved, confidence = matches.transfer_with_confidence(frame)
        # A prediction may leave the image by a cell: the nearest point of the image is never worse.
        found = (_array(moved[0]).T * trg.scale).clip(0, np.subtract(trg.image.size, 1))
        layers = matches.weights[0].nonzero()[:, 0].tolist()
        sure = np.where(src.blank or trg.blank, np.nan, _array(confidence[0]))
        return Found(xy, found, sure, tuple(layers), (src, trg), matches)


def as_rgb(image: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image on white as 8-bit RGB; a file, of no more than `max_pixels`, is turned upright. Raises: UserError."""
    if isinstance(image, str | Path):
        path = Path(image)
        with opened_image(path, max_pixels) as file, error_context(str(path)):
            return on_white(upright(file))
    if isinstance(image, Image.Image):
        return on_white(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"{type(image).__name__} is no image: give a path, a PIL image or an array")
    if (
        image.dtype != np.uint8
        or image.shape[2:] not in ((), (3,))
        or not 2 <= image.ndim <= 3
        or not image.size
    ):
        raise UserError(
            f"an array of {image.dtype} {list(image.shape)} is no image: give uint8 [H, W, 3] or [H, W]"
        )
    return Image.fromarray(image).convert("RGB")


def checked_points(points: ArrayLike, size: Sequence[int]) -> Reals:
    """Points as n×2 numbers, all of them in an image of this size (width, height). Raises: UserError."""
    try:
        xy = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        xy = np.empty(0)
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
        raise UserError("points are given as a list of (x, y), at least one")
    outside = ~((xy >= 0) & (xy <= size)).all(1)
    if outside.any():
        x, y = xy[outside][0]
        raise UserError(f"the point {x:g},{y:g} is outside the image of {size[0]}×{size[1]} pixels")
    return xy


def grid_points(n: int, size: Sequence[int]) -> Reals:
    """The middles of n×n equal tiles of an image of this size (width, height), row by row: n²×2."""
    middles = (np.arange(n) + 0.5) / n
    return np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2) * size


def listed(layers: Sequence[int]) -> str:
    """Ascending layers in words: 0-3, 7."""
    starts = [k for k in layers if k - 1 not in layers]
    ends = [k for k in layers if k + 1 not in layers]
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in zip(starts, ends, strict=True))


def _array(x: Tensor) -> Reals:
    return x.cpu().double().numpy()


def _plate(matches: Matches) -> Reals:
    """Where the corners of the source's S×S cells go, both in sides of the frame: (S+1)×(S+1)×2 (x, y)."""
    S = matches.side
    axis = torch.arange(0, S, -(-S // CELLS), device=matches.scores.column_max.device)
    cells = (axis[:, None] * S + axis).view(1, -1)
    targets, confidence = matches.confident(cells)
    starts, ends = (_array(torch.stack([c % S, c // S], -1)[0]) / S for c in (cells, targets))
    y, x = np.divmod(_array(cells[0]).astype(int), S)
    shifts, weights = ends - starts, _array(confidence[0]) + 1e-6
    n = min(S, KNOTS)
    knot = (y * n // S) * n + x * n // S
    robust = weights
    for _ in range(ROUNDS):
        total = np.bincount(knot, robust)
        place, shift = (
            np.stack([np.bincount(knot, robust * v) for v in xy.T], 1) / total[:, None]
            for xy in (starts, shifts)
        )
        plate = RBFInterpolator(place, shift, smoothing=STIFFNESS / total, kernel="thin_plate_spline")
        off = np.linalg.norm(plate(starts) - shifts, axis=1)
        robust = weights / (1 + (off / OUTLIER) ** 2)
    corners = np.stack(np.meshgrid(*[np.arange(S + 1) / S] * 2), -1)
    return corners + plate(corners.reshape(-1, 2)).reshape(corners.shape)
