"""Files of weights: read without running code in them, checked, and written whole or not at all."""

import json
import pickle
import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dhpf.common.errors import UserError
from dhpf.common.files import describe_content, replace_file

State = Mapping[str, Tensor]
WRAPPERS = (
    "state_dict",
    "model",
    "teacher",
    "net",
    "model_state_dict",
)  # keys of what is kept beside other things


def read(path: Path) -> Any:
    """What a .pt or .safetensors file holds, read without executing code.

    Raises:
        UserError: it cannot be read so.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        if is_safetensors(path):
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings(action="ignore"):  # about files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises almost anything on damaged files
        if what := describe_content(path):
            raise UserError(f"{path}: it is {what}, and holds no weights: replace it") from error
        if (
            found := re.search(r"GLOBAL (\S+)", str(error))
            if isinstance(error, pickle.UnpicklingError)
            else None
        ):
            raise UserError(
                f"{path}: it holds {found[1]} besides tensors, whose loading could run code: save "
                "the state dict, torch.save(model.state_dict(), FILE), where you trust it"
            ) from error
        raise UserError(
            f"{path}: the file is damaged or no file of weights ({type(error).__name__}): replace it"
        ) from error


def is_safetensors(path: Path) -> bool:
    """Whether a file is of safetensors, whatever its name says: its header, JSON, follows the header's length."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def read_tensors(path: Path) -> State:
    """A file's state dict of finite tensors.

    Raises:
        UserError: the file holds something else.
    """
    return check_tensors(path, read(path))


def read_wrapped(path: Path) -> State:
    """`read_tensors` of a file that may keep its state dict beside other things.

    Raises:
        UserError: the file holds none.
    """
    with torch.serialization.safe_globals([Namespace]):  # options, beside many a network: data alone
        content = read(path)
    while isinstance(content, Mapping):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    return check_tensors(path, content)


def check_tensors(path: Path, state: Any) -> State:
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


def read_metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file that `write` wrote says of itself; nothing for other files."""
    if not is_safetensors(path):
        return {}
    with safetensors.safe_open(path, "pt") as file:
        packed = (file.metadata() or {}).get("dhpf", "{}")
    try:
        return {str(key): str(value) for key, value in json.loads(packed).items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its metadata 'dhpf' are damaged: save the model again, or use its .pt file"
        ) from error


def write(path: Path, content: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write content, a state dict if the suffix is .safetensors, beside `path` and rename it.

    Args: metadata: of a .safetensors file.

    Raises:
        UserError: the disk is full or the folder not writable; what was there stays.
    """
    if path.suffix == ".safetensors":
        tensors = {k: v.contiguous() for k, v in content.items()}
        # One entry: the order of several is not the same from run to run.
        packed = safetensors.torch.save(tensors, {"dhpf": json.dumps(metadata)} if metadata else None)
    else:
        buffer = BytesIO()  # torch hides why it cannot write to a file
        torch.save(content, buffer)
        packed = buffer.getvalue()
    replace_file(path, packed)
