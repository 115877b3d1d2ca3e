"""Models from files: the weights of a backbone, and the checkpoints of trained models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dhpf.common.errors import UserError
from dhpf.common.run import OPTIONS
from dhpf.model import BACKBONES
from dhpf.model.ablation import Ablation
from dhpf.model.dhpf import DHPF
from dhpf.weights import RANDOM
from dhpf.weights.config import KEYS, ModelConfig, as_text
from dhpf.weights.files import State, read_metadata, read_tensors, read_wrapped
from dhpf.weights.imagenet import pretrained
from dhpf.weights.key_names import MisfitError, fitting

# What a checkpoint without any description may belong to.
KNOWN_BACKBONES = ("resnet50", "resnet101", "efficientnet_lite0")


def build_model(config: ModelConfig, weights: str | Path | None = None) -> DHPF:
    """An untrained DHPF on a pretrained backbone; what is trained is drawn from torch's generator.

    Args: weights: file of the backbone's weights, or `RANDOM`, always the same ones; None: fetched.
    Raises: UserError: the weights cannot be had, do not fit, or have another hash than the config says.
    """
    cls = BACKBONES[config.backbone]
    source = f"the weights of {config.backbone}" if weights is None else f"--backbone-weights {weights}"
    if weights == RANDOM:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            state: State = cls.network(cls).state_dict()  # type: ignore[arg-type]
    else:
        state = pretrained(config.backbone) if weights is None else read_wrapped(Path(weights))
    network = cls.network(cls)  # type: ignore[arg-type]
    try:
        state, note = fitting(network, state)
    except MisfitError as error:
        raise UserError(
            f"{source}: the file does not hold the weights of {config.backbone}: it {error}"
        ) from error
    backbone = cls(state, config.blocks, config.input_size, config.reduced_channels, network)
    backbone.weights_note = note
    if config.weights_hash not in ("", backbone.weights_hash):
        raise UserError(
            f"{source}: the model was trained on weights of {config.backbone} with the hash {config.weights_hash}, "
            f"these have {backbone.weights_hash}: give its own as --backbone-weights FILE"
        )
    model = DHPF(backbone, config.voting, config.decoder)
    model.ablate(Ablation(config.fixed_layers))
    return model


def load_model(
    path: Path,
    weights: str | Path | None = None,
    voting: str | None = None,
    decoder: str | None = None,
    **required: Any,
) -> tuple[DHPF, str]:
    """The model of a checkpoint, and a sentence that says where its backbone was guessed (else empty).

    Args:
        weights: as in `build_model`.
        voting, decoder: replace those that it was trained with.
        required: fields of `ModelConfig` that the checkpoint must agree with (None: any).
    Raises: UserError: the file is unusable, or does not agree.
    """
    state = read_tensors(path)
    config, note = checkpoint_config(path, state, **required)
    config = replace(config, voting=voting or config.voting, decoder=decoder or config.decoder)
    model = build_model(config, weights)
    load_learner(model, path, state)
    return model, note


def checkpoint_config(path: Path, state: State, **required: Any) -> tuple[ModelConfig, str]:
    """What a checkpoint is, and a sentence that says where its backbone was guessed (else empty).

    Its metadata say it, or the options of the run folder that it lies in, or `required`; else the backbone is
    guessed from its layers. Args and errors: as in `load_model`.
    """
    saved = read_metadata(path) or folder_metadata(path)
    given = {field: value for field, value in required.items() if value is not None}
    if saved.get("backbone", "").startswith("files") and given.get("backbone", "").startswith("files"):
        saved = saved | {"backbone": given["backbone"]}  # the folder of the features may be another
    if saved.get("backbone"):
        for field, value in given.items():
            if as_text(value) != (known := str(saved.get(KEYS[field]) or "")):
                belongs = known or f"all blocks of {saved['backbone']}, at the size of the frame"
                option = f"--{KEYS[field].replace('_', '-')} {as_text(value)}"
                raise UserError(f"{option}: the checkpoint {path} belongs to {belongs}")
    with_given = {KEYS[field]: as_text(value) for field, value in given.items()} | saved
    config, note = ModelConfig.from_metadata(with_given), ""
    if not config.backbone:
        config = replace(config, backbone=fitting_backbone(path, state))
        note = f"{path.name} does not name its backbone: by its layers it is {config.backbone}"
    elif config.backbone.startswith("timm:") and config.blocks is None and not fits(config.backbone, state):
        # In earlier versions a transformer's final norm gave no layer.
        earlier = tuple(range(len(BACKBONES[config.backbone].channels) - 1))
        config = replace(config, blocks=earlier) if fits(config.backbone, state, earlier) else config
    if not fits(config.backbone, state, config.blocks):
        if other := next((name for name in KNOWN_BACKBONES if fits(name, state)), None):
            raise UserError(
                f"--backbone {config.backbone}: by its layers the checkpoint {path} belongs to {other}"
            )
        raise UserError(
            f"{path}: not a checkpoint of {config.backbone}: its layers have other names, numbers or shapes"
        )
    return replace(config, reduced_channels=tuple(reduced for reduced, _ in layer_shapes(state))), note


def folder_metadata(path: Path) -> dict[str, str]:
    """What the options of the run folder that a checkpoint lies in say of the model; nothing where there are none."""
    options_path = path.parent / OPTIONS
    if not options_path.is_file():
        return {}
    try:
        options = dict(json.loads(options_path.read_text()))
        return dict(
            options.get("about") or {k: str(options[k]) for k in ("backbone", "voting") if options.get(k)}
        )
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{options_path}: cannot be read, it should say what {path.name} is") from error


def layer_shapes(state: State) -> list[tuple[int, int]]:
    """Reduced channels and channels of every layer that a checkpoint transforms."""
    layers = sum(name.startswith("reduction_ffns.") and name.endswith(".0.weight") for name in state)
    convs = [state.get(f"reduction_ffns.{k}.0.weight") for k in range(layers)]
    return [(conv.shape[0], conv.shape[1]) for conv in convs if conv is not None and conv.dim() == 4]


def fits(backbone: str, state: State, blocks: tuple[int, ...] | None = None) -> bool:
    """Whether a checkpoint has the layers of a backbone, whatever they are reduced to."""
    channels = BACKBONES[backbone].channels
    chosen = [channels[k] for k in blocks or range(len(channels)) if k < len(channels)]
    return [channel for _, channel in layer_shapes(state)] == chosen


def fitting_backbone(path: Path, state: State) -> str:
    """The backbone, one of `KNOWN_BACKBONES`, whose layers a checkpoint has. Raises: UserError: none has them."""
    for name in KNOWN_BACKBONES:
        if fits(name, state):
            return name
    counts = ", ".join(f"{name} has {len(BACKBONES[name].channels)}" for name in KNOWN_BACKBONES)
    raise UserError(
        f"{path}: not a DHPF checkpoint of a known backbone: {len(layer_shapes(state))} layers, where {counts}; "
        "if it belongs to another, name it as --backbone"
    )


def load_learner(model: DHPF, path: Path, state: State) -> None:
    """Load a checkpoint's state dict. Raises: UserError: names or shapes differ."""
    own = model.learner.state_dict()
    different = sorted(own.keys() ^ state.keys()) or [k for k in own if own[k].shape != state[k].shape]
    if different:
        raise UserError(
            f"{path}: not a checkpoint of {model.backbone.name}: '{different[0]}' is missing, unknown or misshapen"
        )
    model.learner.load_state_dict(state)
