"""Pretrained weights of the backbones; torchvision's ResNets by their old file names, too."""

from pathlib import Path

import torch

from dhpf.common.download import fetch
from dhpf.common.errors import UserError
from dhpf.model import BACKBONES
from dhpf.weights.files import State, read_tensors
from dhpf.weights.pretrained import MisfitError, fitting

URL = "https://download.pytorch.org/models/"
# IMAGENET1K_V1 under its name of today, then under that before torchvision 0.10: the same tensors, stored otherwise.
# A name ends with the beginning of the file's SHA-256.
FILES = {
    "resnet50": ("resnet50-0676ba61.pth", "resnet50-19c8e357.pth"),
    "resnet101": ("resnet101-63fe2227.pth", "resnet101-5d3b4d8f.pth"),
}


def pretrained(backbone: str) -> State:
    """The pretrained weights of a backbone: a ResNet's from torch's cache or the network, others from their packages.

    Raises: UserError: they cannot be had; says which file to save where, or which to remove.
    """
    if backbone not in FILES:
        return BACKBONES[backbone].pretrained()
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    errors = []
    for path in (folder / name for name in FILES[backbone]):
        if path.is_file():
            try:
                return resnet_weights(path, backbone)
            except UserError as error:
                errors.append(error)
    if errors:
        raise errors[0]
    name = FILES[backbone][0]
    try:
        path = fetch(URL + name, folder / name, sha256=name.rpartition("-")[2].removesuffix(".pth"))
    except UserError as error:
        raise UserError(
            f"the ImageNet weights of {backbone}: {error}, or give it as --backbone-weights FILE"
        ) from error
    return resnet_weights(path, backbone)


def resnet_weights(path: Path, backbone: str) -> State:
    """The weights in a file of torch's cache. Raises: UserError: it does not hold them."""
    cls = BACKBONES[backbone]
    try:
        state = read_tensors(path)
        with torch.device("meta"):
            fitting(cls.network(cls), state)  # type: ignore[arg-type]
    except UserError as error:
        reason = f"{path}: the file {error}" if isinstance(error, MisfitError) else error
        raise UserError(f"{reason}; once it is removed the weights of {backbone} are fetched anew") from error
    return state
