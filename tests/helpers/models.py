"""Models and weights for tests: drawn, never fetched."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dhpf.model.dhpf import DHPF
from dhpf.weights.checkpoint import build_model
from dhpf.weights.config import ModelConfig


class Bank(nn.Module):
    """A backbone whose images are mere numbers, B×1×1×1: which of its random maps, drawn beforehand, to give."""

    def __init__(self, sides: list[int], channels: list[int], reduced: list[int], images: int) -> None:
        super().__init__()
        self.channels, self.reduced_channels = tuple(channels), tuple(reduced)
        self.maps = [torch.randn(images, c, h, h) for c, h in zip(channels, sides, strict=True)]

    def layer_maps(self, images: Tensor, frame: int | None = None) -> list[Tensor]:
        return [m[images[:, 0, 0, 0]] for m in self.maps]


def scrambled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with which no batch norm is the identity."""
    torch.manual_seed(0)
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return state


def build(backbone: str, weights: str | Path | None = "random", **config: Any) -> DHPF:
    """An untrained model of a config; `weights` of its backbone: a file, drawn ones, or None: a package's."""
    return build_model(ModelConfig(backbone, **config), weights)


@cache
def draw_learner(backbone: str) -> dict[str, Tensor]:
    """What is trained on a backbone, as a published checkpoint has it, before any training."""
    torch.manual_seed(0)
    return build(backbone).learner.state_dict()
