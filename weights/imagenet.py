"""The ImageNet weights of the built-in backbones."""

from pathlib import Path

import torch

from dhpf.common.errors import UserError
from dhpf.common.files import describe_content
from dhpf.model import BACKBONES
from dhpf.weights.files import State


def pretrained(backbone: str) -> State:
    """The weights that a backbone is meant to run with. Raises: UserError: they cannot be had."""
    cls = BACKBONES[backbone]
    try:
        return cls.pretrained()
    except UserError:
        raise
    except Exception as error:  # no network, or torch on a damaged file that was fetched before
        reason = str(error).partition("\n")[0][:200]
        cached = Path(torch.hub.get_dir()) / "checkpoints" / cls.fetch.rpartition("/")[2]
        if cached.is_file():
            what = describe_content(cached) or "damaged or cut off"
            raise UserError(
                f"{cached}: the ImageNet weights of {backbone} there are {what}: remove the file, it is fetched anew"
            ) from error
        raise UserError(
            f"the ImageNet weights of {backbone} cannot be had ({reason}): get {cls.fetch} and give the file as "
            f"--backbone-weights FILE, or put it into {torch.hub.get_dir()}/checkpoints"
        ) from error
