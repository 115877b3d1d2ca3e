"""Models from files: a backbone's weights, and the checkpoints of learners."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from dhpf.common.errors import UserError
from dhpf.common.weights import State, metadata, read_tensors
from dhpf.model import BACKBONES, VOTINGS
from dhpf.model.ablation import Ablation, checked_layers
from dhpf.model.dhpf import DHPF

OPTIONS = "options.json"  # of the run folder that a checkpoint lies in
GUESSED = ("resnet50", "resnet101", "efficientnet_lite0")  # what a checkpoint that says nothing may belong to


@dataclass(frozen=True)
class About:
    """What is known of a checkpoint beside its tensors.

    layers: those that every pair used in training, if no gates chose.
    note: says in a line where the backbone was guessed.
    """

    backbone: str
    voting: str = "hough"
    layers: tuple[int, ...] | None = None
    note: str = ""


def about(path: Path, state: State, backbone: str | None = None) -> About:
    """What a learner's checkpoint belongs to: its metadata say it, its run folder, or `backbone`; else it is guessed.

    Raises:
        UserError: it belongs to another backbone than the given one, or nothing says to which.
    """
    told = metadata(path)
    if not told and (path.parent / OPTIONS).is_file():
        try:
            options = dict(json.loads((path.parent / OPTIONS).read_text()))
            told = {k: str(options[k]) for k in ("backbone", "voting", "layers") if options.get(k)}
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{path.parent / OPTIONS}: cannot be read, it should say what {path.name} is"
            ) from error
    known = told.get("backbone")
    if None not in (backbone, known) and backbone != known:
        raise UserError(f"--backbone {backbone}: the checkpoint {path} belongs to {known}")
    voting = VOTINGS.checked(told.get("voting", "hough"))
    layers = tuple(sorted(int(number) for number in re.findall(r"\d+", told.get("layers", "")))) or None
    if name := known or backbone:
        if not fits(name, state) and (other := next((n for n in GUESSED if fits(n, state)), None)):
            raise UserError(f"--backbone {name}: by its layers the checkpoint {path} belongs to {other}")
        return About(name, voting, layers)
    name = fitting(path, state)
    note = f"{path.name} does not say its backbone: by its layers it is taken for {name}'s"
    return About(name, voting, layers, note)


def fits(backbone: str, state: State) -> bool:
    """Whether a learner's state dict has the layers of a backbone."""
    cls = BACKBONES[backbone]
    return shapes(state) == list(zip(cls.widths, cls.channels, strict=True))


def shapes(state: State) -> list[tuple[int, ...]]:
    """Width and channels of every layer that a learner's state dict transforms."""
    layers = sum(name.startswith("reduction_ffns.") and name.endswith(".0.weight") for name in state)
    convs = [state.get(f"reduction_ffns.{k}.0.weight") for k in range(layers)]
    return [tuple(conv.shape[:2]) for conv in convs if conv is not None and conv.dim() == 4]


def fitting(path: Path, state: State) -> str:
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


def build_model(backbone: str, weights: str | Path | None = None, voting: str = "hough") -> DHPF:
    """DHPF on a pretrained backbone, its learner drawn from torch's generator.

    Args:
        backbone, voting: keys of `BACKBONES` and `VOTINGS`.
        weights: local file of the backbone's weights; fetched if None.
    Raises:
        UserError: the weights cannot be had or do not fit.
    """
    cls = BACKBONES[backbone]
    try:
        state = cls.pretrained() if weights is None else read_tensors(Path(weights))
    except UserError:
        raise
    except Exception as error:  # no network, or torch on a damaged file that was fetched before
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"the ImageNet weights of {backbone} cannot be had ({reason}): get {cls.fetch} and give the file as "
            f"--backbone-weights FILE, or put it into {torch.hub.get_dir()}/checkpoints"
        ) from error
    try:
        return DHPF(cls(state), voting)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--backbone-weights {weights}: the file does not hold the weights of {backbone}"
        ) from error


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
    path: Path, backbone: str | None = None, weights: str | Path | None = None, voting: str | None = None
) -> tuple[DHPF, About]:
    """The model of a checkpoint, with the voting that it was trained with or `voting`, and what it is.

    Raises:
        UserError: the file is unusable, or belongs to another backbone than the one asked for.
    """
    state = read_tensors(path)
    known = about(path, state, backbone)
    model = build_model(known.backbone, weights, voting or known.voting)
    load_learner(model, path, state)
    model.ablate(Ablation(layers=checked_layers(known.layers, model.backbone)))
    return model, known
