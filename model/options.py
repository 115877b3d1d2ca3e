"""The options of all that computes with a model."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from dhpf.common.errors import UserError
from dhpf.common.options import existing, image_side, layer_set, option
from dhpf.model import BACKBONES, VOTINGS
from dhpf.model.released import released

DEFAULT_BACKBONE = "efficientnet_lite0"  # its weights come with a package
DEFAULT_VOTING = "hough"
NO_HOUGH = {"--no-hough": "none"}


def checkpoint_name(text: str) -> str:
    """Argument type: a file that is there, or the name of a released model."""
    try:
        return text if released(text) else str(existing(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device_name(text: str) -> str:
    """Argument type: what may be a device; whether it is there is known later."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text}: no such device, use auto, cpu, cuda, cuda:N or mps")
    return text


@dataclass(frozen=True)
class ModelOptions:
    backbone: str | None = option(
        None,
        f"frozen feature extractor; read from the checkpoint, else {DEFAULT_BACKBONE}",
        choices=BACKBONES,
    )
    backbone_weights: Path | None = option(
        None, "the backbone's ImageNet weights, if not to be fetched", type=existing, metavar="FILE"
    )
    voting: str | None = option(
        None,
        f"what re-weights appearance; read from the checkpoint's run, else {DEFAULT_VOTING}",
        choices=VOTINGS,
        shorthand=NO_HOUGH,
    )
    img_side: int = option(
        240, "side that images are resized to, in pixels", type=image_side, metavar="PIXELS"
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps", type=device_name)


@dataclass(frozen=True)
class LoadOptions:
    load: str | None = option(
        None,
        "learner, a file or a released one such as dhpf:spair-strong-resnet101; without it none is trained",
        type=checkpoint_name,
        metavar="CKPT",
    )


@dataclass(frozen=True)
class LayerOptions:
    layers: tuple[int, ...] | None = option(
        None,
        "every pair uses these hyperpixel layers, counted from 0, or those of a search, @layers.json; no gate is asked",
        type=layer_set,
        metavar="L,L,...",
    )


@dataclass(frozen=True)
class AblationOptions(LayerOptions):
    raw: bool = option(False, "the backbone's own features, without the learned transformation")
    soft_gates: bool = option(False, "weigh layers by their probability instead of 0 or 1")
