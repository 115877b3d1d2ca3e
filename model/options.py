"""The options of all that computes with a model."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from dhpf.common.errors import UserError
from dhpf.common.options import existing, image_side, layer_set, number, option
from dhpf.model import BACKBONES, VOTINGS
from dhpf.weights.released import released

DEFAULT_BACKBONE = "efficientnet_lite0"  # its weights come with a package
DEFAULT_VOTING = "hough"
RANDOM = "random"  # weights
EIGHTH = "eighth"  # of a layer's channels
BEST, STATES = "best_model.pt", ("state.pt", "not_finite.pt")  # of a run folder
NO_HOUGH = {"--no-hough": "none"}


def checkpoint_name(text: str) -> str:
    """Argument type: a file that is there, a run folder, of which it is the best model, or a released model's name."""
    path = Path(text)
    if path.name in STATES:
        raise argparse.ArgumentTypeError(
            f"{text}: the state of a run, to resume it; its best model is {path.with_name(BEST)}"
        )
    try:
        return text if released(text) else str(existing(str(path / BEST) if path.is_dir() else text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device_name(text: str) -> str:
    """Argument type: what may be a device; whether it is there is known later."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text}: no such device, use auto, cpu, cuda, cuda:N or mps")
    return text


def weights_name(text: str) -> Path | str:
    """Argument type: a file that is there, or that weights are to be drawn."""
    return RANDOM if text == RANDOM else existing(text)


def width(text: str) -> int | str:
    """Argument type: an eighth, or a number of channels."""
    return text if text == EIGHTH else int(number(int, 1)(text))


@dataclass(frozen=True)
class ModelOptions:
    backbone: str | None = option(
        None,
        f"frozen feature extractor, timm:NAME for any of timm; read from the checkpoint, else {DEFAULT_BACKBONE}",
        choices=BACKBONES,
    )
    backbone_weights: Path | str | None = option(
        None,
        f"the backbone's weights, if not to be fetched; {RANDOM}: drawn, to try a network out",
        type=weights_name,
        metavar="FILE",
    )
    backbone_layers: tuple[int, ...] | None = option(
        None,
        "the blocks of the backbone that are hyperpixel layers, counted from 0; all if not given",
        type=layer_set,
        metavar="L,L,...",
    )
    backbone_side: int | None = option(
        None,
        "side of the pictures that the backbone is shown; the correlation grid stays --img-side's",
        type=number(int, 64, 4096),
        metavar="PIXELS",
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
    precision: str = option("fp32", "of the backbone and the transformation", choices=("fp32", "bf16"))


@dataclass(frozen=True)
class LearnerOptions:
    width: int | str | None = option(
        None,
        f"channels of every layer after the transformation, at most; {EIGHTH}: of its own, as published and the "
        "ResNets' default (others': 64)",
        type=width,
        metavar="N",
        before=EIGHTH,
    )


@dataclass(frozen=True)
class LoadOptions:
    load: str | None = option(
        None,
        "learner: a file, a run folder, or a released one such as dhpf:spair-strong-resnet101; else none is trained",
        type=checkpoint_name,
        metavar="CKPT",
    )


@dataclass(frozen=True)
class InferenceOptions:
    compile: bool = option(
        False,
        "on a CUDA GPU: one image and one pair at a time, each as one graph; compiling them first takes minutes",
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
