"""Matching of one's own images, in their own pixels.

    from dhpf.matching.matcher import Matcher
    matcher = Matcher.load("best_model.pt")  # or the name of a backbone, whose raw features need no checkpoint
    found = matcher.match("a.jpg", "b.jpg", [(120, 80), (64.5, 200)])
    found.points, found.confidence, found.layers, found.flow, found.warped()
    found.show(), found.save("matches.png"), found.save("flow.flo")

Points are (x, y) in pixels of the image that they belong to; the centre of its first pixel is (0, 0).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from dhpf.common.errors import UserError, error_context
from dhpf.common.processes import choose_device
from dhpf.data import MAX_PIXELS
from dhpf.data.benchmark import Benchmark
from dhpf.data.images import normalised, on_white, opened_image, upright
from dhpf.evaluation.metrics import Reals
from dhpf.evaluation.predictions import PairRows
from dhpf.matching.found import Encoded, Found, layer_ranges, to_array
from dhpf.matching.predict import LoadingConfig, order_by_images, predict
from dhpf.model import BACKBONES
from dhpf.model.ablation import requested_ablation
from dhpf.model.compiled import CompiledDHPF
from dhpf.model.dhpf import DHPF
from dhpf.model.grid import check_frame
from dhpf.weights import DEFAULT_BACKBONE, DEFAULT_DECODER, DEFAULT_VOTING
from dhpf.weights.checkpoint import build_model, load_model
from dhpf.weights.config import ModelConfig
from dhpf.weights.released import resolve

Picture = str | Path | Image.Image | NDArray[np.uint8] | torch.Tensor
Matchable = Picture | Encoded
DEFAULT_GRID = 6  # points a side, where none are given
BATCH_SIZE = 8  # pairs of a benchmark that a GPU compares at once


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
        model: str | Path | None = None,
        *,
        backbone: str | None = None,
        backbone_weights: str | Path | None = None,
        backbone_layers: Sequence[int] | None = None,
        backbone_side: int | None = None,
        voting: str | None = None,
        decoder: str | None = None,
        layers: Sequence[int] | None = None,
        raw: bool = False,
        soft_gates: bool = False,
        img_side: int = 240,
        precision: str = "fp32",
        device: str = "auto",
    ) -> "Matcher":
        """A matcher from a checkpoint, or from the name of a backbone; the arguments are the programs' options.

        A backbone alone has learned nothing for matching: its raw features of all layers go into the Hough
        matching, with no transformation and no gates.

        Args:
            model: file of a checkpoint, a run folder, a released one (`model.released`), or one of `BACKBONES`,
                `timm:NAME` too; if not given, `backbone` or the default one.
            backbone: what the checkpoint belongs to, read from it if not given.
            backbone_weights: file of the backbone's weights, or "random"; fetched if not given.
            backbone_layers, backbone_side: blocks that are hyperpixel layers, side of the images given to the backbone.
            voting: one of `VOTINGS`; that of the checkpoint if not given, else Hough matching.
            decoder: one of `DECODERS`, perhaps with parameters; that of the checkpoint if not given, else the paper's.
            layers, raw, soft_gates: parts of the method that are replaced, see `Ablation`.
            precision: fp32 or bf16.
        Raises:
            UserError: unusable checkpoint or weights, arguments that contradict each other, no such device.
        """
        given = str(model or backbone or DEFAULT_BACKBONE)
        blocks = tuple(sorted(set(backbone_layers))) if backbone_layers else None
        if Path(given).name == given and not (Path(given).exists() or Path(given).suffix or ":" in given):
            with error_context(f"{given}: there is no such file"):
                BACKBONES.checked(given)
        learned = given not in BACKBONES
        if learned:
            required = {"backbone": backbone, "blocks": blocks, "input_size": backbone_side}
            net, note = load_model(resolve(given), backbone_weights, voting, decoder, **required)
            name = "; ".join(filter(None, [f"{net.backbone.name} with {given}", note]))
        elif backbone not in (None, given):
            raise UserError(
                f"--backbone {backbone}: the raw features of {given} are to be matched, leave one out"
            )
        else:
            config = ModelConfig(given, blocks, backbone_side, voting=voting or DEFAULT_VOTING)
            net = build_model(replace(config, decoder=decoder or DEFAULT_DECODER), backbone_weights)
            name = "; ".join(filter(None, [given, net.backbone.weights_note]))
        net.bf16 = {"fp32": False, "bf16": True}[precision]
        fixed = net.ablation.fixed_layers if layers is None else layers
        net.ablate(
            requested_ablation(len(net.backbone.channels), learned, fixed, raw or not learned, soft_gates)
        )
        return cls(net.to(choose_device(device)), name, img_side)

    def __repr__(self) -> str:
        return f"<Matcher: {self}>"

    def __str__(self) -> str:
        """What matches, in words."""
        ablation, voting = self.model.ablation, self.model.voting
        if not ablation.unlearned:
            return "; ".join(filter(None, [self.name, self.model.differences]))
        layers, K = ablation.fixed_layers or (), len(self.model.backbone.channels)
        used = f"all {K} layers" if len(layers) == K else f"layers {layer_ranges(layers)}"
        votes = {"hough": "Hough matching", "none": "no Hough matching"}.get(voting, f"voting {voting}")
        decoder = f", decoder {self.model.decoder}" * (self.model.decoder != "cells")
        return f"{self.name}, raw features of {used}, nothing learned for matching; {votes}{decoder}"

    @torch.no_grad()
    def encode(self, image: Picture | Encoded, name: str = "") -> Encoded:
        """The features of one image.

        Args:
            image: a file, turned upright if it says how it was held (EXIF); a PIL image as it is, which must not change
                afterwards; an array [H, W, 3] or [H, W] of uint8; or a tensor [3, H, W] of uint8, or of 0..1.
            name: what it is called where features come from files; the path of a file if not given.
        Returns:
            What `match` takes instead of the image.
        Raises:
            UserError: it is no image.
        """
        if isinstance(image, Encoded):
            return image
        picture = as_rgb(image)
        size = self.model.backbone.input_size_for(self.img_side)
        if files := self.model.backbone.features:
            name = name or str(image) * isinstance(image, str | Path)
            if not name:
                raise UserError(
                    f"{self.model.backbone.name}: features from files need an image's path or name"
                )
            pixels = files.image_tensor(name, picture.size)
        else:
            pixels = normalised(picture, size)
        return Encoded(
            picture, self.model.encode(pixels[None].to(self.model.device), self.img_side), self.img_side
        )

    def to(self, device: str | torch.device) -> "Matcher":
        """Move the model; images that are encoded follow when they are matched. Raises: UserError: no such device."""
        if isinstance(self.model, CompiledDHPF):
            raise UserError("a compiled model stays on its device: load another one")
        self.model.to(choose_device(str(device)))
        return self

    @overload
    def match(self, source: Matchable, target: Matchable, points: ArrayLike | None = None) -> Found: ...

    @overload
    def match(self, source: Matchable, target: list[Any], points: ArrayLike | None = None) -> list[Found]: ...

    @torch.no_grad()
    def match(
        self, source: Matchable, target: Matchable | list[Any], points: ArrayLike | None = None
    ) -> Found | list[Found]:
        """Where points of one image are in another.

        Args:
            source, target: images, or what `encode` made of them; the target may be a list, each of which is matched.
            points: n×2 (x, y) in pixels of the source; a grid of `DEFAULT_GRID`² if not given.
        Returns:
            Their n predicted points in the target, with confidence; the dense flow is computed when asked for.
        Raises:
            UserError: no image; points that are no points of the source.
        """
        src = self.encode(source)
        if isinstance(target, list):
            return [self.match(src, each, points) for each in target]
        trg = self.encode(target)
        points = grid_points(DEFAULT_GRID, src.image.size) if points is None else points
        xy = checked_points(points, src.image.size)
        device = self.model.device
        matches = self.model.compare(src.features.to(device), trg.features.to(device))
        frame = torch.from_numpy((xy / src.scale).T).to(matches.scores.column_max)[None]
        moved, confidence = matches.transfer_with_confidence(frame)
        # A prediction may leave the image by a cell: the nearest point of the image is never worse.
        predicted = (to_array(moved[0]).T * trg.scale).clip(0, np.subtract(trg.image.size, 1))
        layers = matches.weights[0].nonzero()[:, 0].tolist()
        known = np.where(src.blank or trg.blank, np.nan, to_array(confidence[0]))
        return Found(xy, predicted, known, tuple(layers), (src, trg), matches)

    def predict_pairs(self, benchmark: Benchmark, advance: Callable[[int], None]) -> PairRows:
        """The rows of all pairs of a benchmark, as `test.py` predicts them; `evaluate` calls this.

        Args: advance: called with the number of pairs done since the last call.
        Raises: UserError: a pair cannot be read, or the benchmark has another frame.
        """
        if benchmark.img_side != self.img_side:
            sides = f"{benchmark.img_side}, the matcher's {self.img_side}"
            raise UserError(f"the benchmark's img_side is {sides}: open both with the same")
        loading = LoadingConfig(batch_size=BATCH_SIZE)
        return predict(self.model, benchmark, order_by_images(benchmark), loading, advance)[0]


def as_rgb(image: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image on white as 8-bit RGB; a file, of no more than `max_pixels`, is turned upright. Raises: UserError."""
    if isinstance(image, str | Path):
        path = Path(image)
        with opened_image(path, max_pixels) as file, error_context(str(path)):
            return on_white(upright(file))
    if isinstance(image, Image.Image):
        return on_white(image)
    if isinstance(image, torch.Tensor) and image.ndim == 3 and len(image) == 3:
        values = image.detach().cpu()
        if values.is_floating_point() and bool(((values >= 0) & (values <= 1)).all()):
            values = (255 * values.float()).round().byte()
        image = values.permute(1, 2, 0).numpy()
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"{type(image).__name__} is no image: give a path, a PIL image, an array or a tensor [3, H, W]"
        )
    if (
        image.dtype != np.uint8
        or image.shape[2:] not in ((), (3,))
        or not 2 <= image.ndim <= 3
        or not image.size
    ):
        raise UserError(
            f"an array of {image.dtype} {list(image.shape)} is no image: give uint8 [H, W, 3] or [H, W], or a tensor "
            "[3, H, W] of uint8 or of 0..1"
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
