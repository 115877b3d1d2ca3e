"""Reading and writing of weights: nothing is believed before it is checked, nothing half written is left."""

import pickle
import re
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dhpf.common.errors import UserError
from dhpf.common.files import replace_file
from dhpf.model.backbone import BACKBONES
from dhpf.model.dhpf import DHPF

State = Mapping[str, Tensor]


def read(path: Path) -> Any:
    """What a .pt or .safetensors file holds, read without executing code.

    Raises:
        UserError: it cannot be read so.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings(action="ignore"):  # about files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path}: not a file of tensors alone{f', it names {found[1]}' if found else ''}; "
            "loading anything else could run code in it"
        ) from error
    except Exception as error:  # torch raises almost anything on damaged files
        raise UserError(
            f"{path}: the file is damaged or no file of weights ({type(error).__name__})"
        ) from error


def read_tensors(path: Path) -> State:
    """A file's state dict of finite tensors.

    Raises:
        UserError: the file holds something else.
    """
    return checked(path, read(path))


def checked(path: Path, state: Any) -> State:
    """What a file held, if that is a state dict of finite tensors.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: the file holds no state dict (names with tensors)")
    size = path.stat().st_size
    for name, tensor in state.items():
        # A few bytes can describe a tensor of any size, all of whose values are one.
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.nbytes > size:
            raise UserError(f"{path}: '{name}' is no plain tensor")
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: '{name}' has values that are not finite")
    return state


def write(path: Path, content: Any) -> None:
    """Write content, a state dict if the suffix is .safetensors, beside `path` and rename it.

    Raises:
        UserError: the disk is full or the folder not writable; what was there stays.
    """
    if path.suffix == ".safetensors":
        packed = safetensors.torch.save({k: v.contiguous() for k, v in content.items()})
    else:
        buffer = BytesIO()  # torch hides why it cannot write to a file
        torch.save(content, buffer)
        packed = buffer.getvalue()
    replace_file(path, packed)


def backbone_of(path: Path, state: State) -> str:
    """Name of the backbone whose layers a learner's state dict fits.

    Raises:
        UserError: none does.
    """
    layers = sum(name.startswith("reduction_ffns.") and name.endswith(".0.weight") for name in state)
    convs = [state.get(f"reduction_ffns.{k}.0.weight") for k in range(layers)]
    shapes = [tuple(conv.shape[:2]) for conv in convs if conv is not None and conv.dim() == 4]
    for name, cls in BACKBONES.items():
        if shapes == list(zip(cls.widths, cls.channels, strict=True)):
            return name
    raise UserError(
        f"{path}: not a DHPF checkpoint of a known backbone: {len(shapes)} hyperpixel layers, "
        f"where {', '.join(f'{n} has {len(c.channels)}' for n, c in BACKBONES.items())}"
    )


def build_model(backbone: str, weights: Path | None) -> DHPF:
    """DHPF on a pretrained backbone, its learner drawn from torch's generator.

    Args:
        weights: local file of the backbone's weights; fetched if None.
    Raises:
        UserError: the weights cannot be had or do not fit.
    """
    cls = BACKBONES[backbone]
    try:
        state = cls.pretrained() if weights is None else read_tensors(weights)
    except UserError:
        raise
    except Exception as error:  # no network, or torch on a damaged file that was fetched before
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"the ImageNet weights of {backbone} cannot be had ({reason}): get {cls.fetch} and give the file as "
            f"--backbone-weights FILE, or put it into {torch.hub.get_dir()}/checkpoints"
        ) from error
    try:
        return DHPF(cls(state))
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
            f"{path}: not a checkpoint of this model: '{different[0]}' is missing, unknown or misshapen"
        )
    model.learner.load_state_dict(state)


def load_model(path: Path, backbone: str | None, weights: Path | None) -> tuple[DHPF, str]:
    """The model of a checkpoint, and its backbone's name.

    Raises:
        UserError: the file is unusable, or belongs to another backbone than the one asked for.
    """
    state = read_tensors(path)
    name = backbone_of(path, state)
    if backbone not in (None, name):
        raise UserError(f"--backbone {backbone}: the checkpoint {path} belongs to {name}")
    model = build_model(name, weights)
    load_learner(model, path, state)
    return model, name
