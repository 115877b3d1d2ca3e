"""Models from files: a backbone's weights, and the checkpoints of learners."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dhpf.common.errors import UserError
from dhpf.model import BACKBONES, VOTINGS
from dhpf.model.ablation import Ablation
from dhpf.model.dhpf import DHPF
from dhpf.model.options import RANDOM
from dhpf.weights.files import State, metadata, read_tensors, read_wrapped
from dhpf.weights.imagenet import imagenet_state
from dhpf.weights.pretrained import MisfitError, fitting

OPTIONS = "options.json"  # of the run folder that a checkpoint lies in
GUESSED = ("resnet50", "resnet101", "efficientnet_lite0")  # what a checkpoint that says nothing may belong to


@dataclass(frozen=True)
class About:
    """What is known of a checkpoint beside its tensors.

    layers, side, width: as in `FrozenBackbone`.
    weights: hash of the backbone's weights; empty if nothing says it.
    fixed: the layers that every pair used in training, if no gates chose.
    note: says in a line where the backbone was guessed.
    """

    backbone: str
    voting: str = "hough"
    layers: tuple[int, ...] | None = None
    side: int | None = None
    width: tuple[int, ...] | None = None
    weights: str = ""
    fixed: tuple[int, ...] | None = None
    note: str = ""


def about(path: Path, state: State, backbone: str | None = None, **given: Any) -> About:
    """What a learner's checkpoint belongs to: its metadata say it, its run folder, or options; else it is guessed.

    Args: given: the options backbone_layers and backbone_side; None, as backbone, where they are not given.
    Raises:
        UserError: it belongs to another backbone than the given one, or nothing says to which.
    """
    told = metadata(path)
    if not told and (path.parent / OPTIONS).is_file():
        try:
            options = dict(json.loads((path.parent / OPTIONS).read_text()))
            told = options.get("about") or {
                k: str(options[k]) for k in ("backbone", "voting") if options.get(k)
            }
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path.parent / OPTIONS}: cannot be read, it should say what {path.name} is"
            ) from error
    asked = {
        name: as_text(value) for name, value in ({"backbone": backbone} | given).items() if value is not None
    }
    if "backbone" in told:
        for name, value in asked.items():
            if value != (known := told.get(name, "")):
                option = f"--{name.replace('_', '-')} {value}"
                whose = known or f"all layers of {told['backbone']}, at the frame's side"
                raise UserError(f"{option}: the checkpoint {path} belongs to {whose}")
    told = asked | dict(told)
    voting = VOTINGS.checked(told.get("voting", "hough"))
    layers, fixed = (
        tuple(int(k) for k in told.get(name, "").split(",") if k) or None
        for name in ("backbone_layers", "layers")
    )
    side = int(told.get("backbone_side", 0)) or None
    name, note = told.get("backbone", ""), ""
    if not name:
        name = guess_backbone(path, state)
        note = f"{path.name} does not say its backbone: by its layers it is taken for {name}'s"
    elif not fits(name, state, layers):
        if other := next((n for n in GUESSED if fits(n, state)), None):
            raise UserError(f"--backbone {name}: by its layers the checkpoint {path} belongs to {other}")
        raise UserError(f"{path}: not a checkpoint of {name}: layers are missing, unknown or misshapen")
    width = tuple(width for width, _ in shapes(state))
    return About(name, voting, layers, side, width, told.get("backbone_weights", ""), fixed, note)


def as_text(value: Any) -> str:
    """The value of an option as a checkpoint has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def fits(backbone: str, state: State, layers: tuple[int, ...] | None = None) -> bool:
    """Whether a learner's state dict has the layers of a backbone, of any widths."""
    channels = BACKBONES[backbone].channels
    taken = [channels[k] for k in layers or range(len(channels)) if k < len(channels)]
    return [channel for _, channel in shapes(state)] == taken


def shapes(state: State) -> list[tuple[int, ...]]:
    """Width and channels of every layer that a learner's state dict transforms."""
    layers = sum(name.startswith("reduction_ffns.") and name.endswith(".0.weight") for name in state)
    convs = [state.get(f"reduction_ffns.{k}.0.weight") for k in range(layers)]
    return [tuple(conv.shape[:2]) for conv in convs if conv is not None and conv.dim() == 4]


def guess_backbone(path: Path, state: State) -> str:
    """The backbone, one of `GUESSED`, whose layers a learner's state dict fits.

    Raises:
        UserError: none does.
    """
    for name in GUESSED:
        if fits(name, state):
            return name
    counts = ", ".join(f"{name} has {len(BACKBONES[name].channels)}" for name in GUESSED)
    raise UserError(
        f"{path}: not a DHPF checkpoint of a known backbone: {len(shapes(state))} hyperpixel layers, where {counts}; "
        "if it belongs to another, name it as --backbone"
    )


def build_model(
    backbone: str,
    weights: str | Path | None = None,
    voting: str = "hough",
    layers: tuple[int, ...] | None = None,
    side: int | None = None,
    width: int | str | tuple[int, ...] | None = None,
) -> DHPF:
    """DHPF on a pretrained backbone, its learner drawn from torch's generator.

    Args:
        backbone, voting: keys of `BACKBONES` and `VOTINGS`.
        weights: local file of the backbone's weights, or `RANDOM`, always the same ones; fetched if None.
        layers, side, width: blocks, input_size and reduced_channels of `FrozenBackbone`.
    Raises:
        UserError: the weights cannot be had or do not fit.
    """
    cls, place = BACKBONES[backbone], f"--backbone-weights {weights}"
    if weights == RANDOM:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            state: State = cls.network(cls).state_dict()  # type: ignore[arg-type]
    elif weights is not None:
        state = read_wrapped(Path(weights))
    else:
        state, place = imagenet_state(backbone), f"the weights of {backbone}"
    network = cls.network(cls)  # type: ignore[arg-type]
    try:
        state, note = fitting(network, state)
    except MisfitError as error:
        raise UserError(f"{place}: the file does not hold the weights of {backbone}: it {error}") from error
    net = cls(state, layers, side, width, network)
    net.weights_note = note
    return DHPF(net, voting)


def load_learner(model: DHPF, path: Path, state: State) -> None:
    """Fill the learner from a published checkpoint's state dict.

    Raises:
        UserError: names or shapes differ.
    """
    own = model.learner.state_dict()
    different = sorted(own.keys() ^ state.keys()) or [k for k in own if own[k].shape != state[k].shape]
    if different:
        raise UserError(
            f"{path}: not a checkpoint of {model.backbone.name}: '{different[0]}' is missing, unknown or misshapen"
        )
    model.learner.load_state_dict(state)


def load_model(
    path: Path,
    backbone: str | None = None,
    weights: str | Path | None = None,
    voting: str | None = None,
    layers: tuple[int, ...] | None = None,
    side: int | None = None,
) -> tuple[DHPF, About]:
    """The model of a checkpoint, with the voting that it was trained with or `voting`, and what it is.

    Raises:
        UserError: the file is unusable, or belongs to another backbone, or other weights of it, than the one asked for.
    """
    state = read_tensors(path)
    known = about(path, state, backbone=backbone, backbone_layers=layers, backbone_side=side)
    model = build_model(
        known.backbone, weights, voting or known.voting, known.layers, known.side, known.width
    )
    if known.weights and known.weights != model.backbone.weights_hash:
        raise UserError(
            f"{path}: it was trained on weights of {known.backbone} with the hash {known.weights}, and these have "
            f"{model.backbone.weights_hash}: give its own as --backbone-weights FILE"
        )
    load_learner(model, path, state)
    model.ablate(Ablation(fixed_layers=known.fixed))
    return model, known
