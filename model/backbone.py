"""Frozen backbones and their hyperpixel layers (docs/method.md, section 2; docs/backbones.md).

A backbone is one small subclass of `FrozenBackbone`, entered in `model.BACKBONES`, with

    name         what it is entered as: checkpoints carry it
    channels     channels of every hyperpixel layer
    fetch        what `pretrained()` reads, in words for an error message
    pretrained() the state dict of the ImageNet weights that it is meant to run with, a class method
    network()    the plain network, whose batch norms are folded when its weights are in
    forward      yields the maps of all layers for images B×3×s×s, ImageNet-normalised, each B×C×h×h, sides never
                 growing; h = s / 4 is the side of the correlation grid

`timm:NAME` makes one of any network of timm (`model.timm_backbone`).
"""

import hashlib
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import torch
import torchvision
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dhpf.common.errors import UserError
from dhpf.model.grid import STRIDE, check_frame
from dhpf.weights.files import State
from dhpf.weights.key_names import fitting, needed

EIGHTH = "eighth"


class FrozenBackbone(nn.Module):
    """A network that never trains: no gradient, and batch norms folded into their convolutions.

    Args:
        state: its weights, named as `network` or in one of the ways that `model.pretrained` knows.
        layers: which of its blocks are hyperpixel layers, ascending; all if not given.
        side: of the pictures that it is shown, pixels, if that is not the frame's.
        width: of every layer after the learned transformation: `EIGHTH` of its channels, at most a number, or one for
            each; the class says it if not given.

    channels, widths: of every layer before and after the learned transformation.
    shown: side of the pictures that it is shown, if that is known.
    note: what of the weights was not used, in a line.
    weights_hash: hash of the weights without the classifier's.
    """

    name: str
    channels: tuple[int, ...]
    widths: tuple[int, ...]
    width: int | str | tuple[int, ...] = 64
    least_width = 16  # of an eighth: thinner layers tell too little
    multiple = 1  # which sides of pictures it takes
    fetch = "its weights"
    net: Any

    def __init_subclass__(cls) -> None:
        if "channels" in cls.__dict__:
            cls.widths = cls.widths_of(cls.channels, cls.width)

    def __init__(
        self,
        state: State,
        layers: tuple[int, ...] | None = None,
        side: int | None = None,
        width: int | str | tuple[int, ...] | None = None,
    ) -> None:
        """Raises UserError if `state` does not fit the network, or it has no such layers."""
        super().__init__()
        if layers and layers[-1] >= len(self.channels):
            raise UserError(
                f"--backbone-layers {layers[-1]}: the blocks of {self.name} are 0 to {len(self.channels) - 1}"
            )
        self.layers, self.side, self.shown = layers, side, 0
        self.width = self.width if width is None else width
        self.channels = tuple(self.channels[k] for k in layers or range(len(self.channels)))
        self.widths = self.widths_of(self.channels, self.width)
        net = self.network()
        fitted, self.note = fitting(net, state)
        net.load_state_dict(fitted, strict=False)  # its head may be missing
        self.weights_hash = weights_hash(net.state_dict())
        self.net = net.eval()
        for conv, norm in self.norms():
            fold(self.net, conv, norm)
        self.requires_grad_(False).to(memory_format=torch.channels_last)
        # Neither names `self`: a copy would ask the one that it was copied from.
        self.register_forward_pre_hook(lambda backbone, inputs: backbone.check(inputs[0]))
        self.register_forward_hook(lambda backbone, _, maps: backbone.chosen(maps))

    @classmethod
    def widths_of(cls, channels: tuple[int, ...], width: int | str | tuple[int, ...]) -> tuple[int, ...]:
        """Widths of layers with these channels; `width` as in `FrozenBackbone`."""
        if isinstance(width, tuple):
            return width
        return tuple(
            min(c, width) if isinstance(width, int) else max(cls.least_width, c // 8) for c in channels
        )

    def network(self) -> nn.Module:
        """The plain network, with any weights."""
        raise UserError(f"backbone {self.name} says no network")

    @classmethod
    def pretrained(cls) -> State:
        """The state dict of the weights that it is meant to run with."""
        raise UserError(f"backbone {cls.name} brings no weights of its own: give --backbone-weights FILE")

    def norms(self) -> list[tuple[str, str]]:
        """Names of convolutions and of the batch norms that directly follow each, as the network lists its parts."""
        modules = [(name, list(module.named_children())) for name, module in self.net.named_modules()]
        return [
            (f"{name}.{conv}".lstrip("."), f"{name}.{norm}".lstrip("."))
            for name, children in modules
            for (conv, a), (norm, b) in pairwise(children)
            if isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d)
        ]

    def picture_side(self, frame: int) -> int:
        """Side of the pictures to show, and from now on shown, where matches are in frames of this side."""
        self.shown = self.nearest(self.side or frame)
        return self.shown

    def nearest(self, side: int) -> int:
        """The side nearest to this one that the network takes."""
        return max(1, round(side / self.multiple)) * self.multiple

    def cost(self, frame: int) -> str:
        """What pictures of its own side cost beside those of the frame's, in words; empty if it has none."""
        if not self.side:
            return ""
        side = self.nearest(self.side)
        area = (side / frame) ** 2
        return (
            f"{self.name} is shown {side}×{side} pixels, {area:.1f} times those of the {frame} frame: so many times "
            f"its time and its maps' memory (attention over tokens {area**2:.1f} times); the grid stays "
            f"{frame // STRIDE}×{frame // STRIDE}"
        )

    def check(self, images: Tensor) -> None:
        """Raises: UserError: images that can be neither frames nor the pictures that it is shown."""
        height, width = images.shape[-2:]
        if not height == width == self.shown:
            check_frame(height, width)

    def chosen(self, maps: Iterator[Tensor]) -> Iterator[Tensor]:
        """Of all maps those of the hyperpixel layers, each computed when it is asked for."""
        if self.layers is None:
            return maps
        return (m for k, m in enumerate(islice(maps, self.layers[-1] + 1)) if k in self.layers)

    @property
    def about(self) -> dict[str, str]:
        """What tells it from others, for a checkpoint."""
        told = {"backbone": self.name, "backbone_weights": self.weights_hash}
        told |= {"width": self.width if isinstance(self.width, str) else str(max(self.widths))}
        told |= {"backbone_layers": ",".join(map(str, self.layers))} if self.layers else {}
        return told | ({"backbone_side": str(self.side)} if self.side else {})

    def train(self, mode: bool = True) -> "FrozenBackbone":
        return super().train(False)


def fold(net: nn.Module, conv: str, norm: str) -> None:
    """Fold a batch norm into the convolution before it; a fused activation stays."""
    old: Any = net.get_submodule(norm)
    net.set_submodule(conv, fuse_conv_bn_eval(net.get_submodule(conv), old))  # type: ignore[type-var]
    net.set_submodule(norm, old.act if isinstance(old, BatchNormAct2d) else nn.Identity())


def weights_hash(state: State) -> str:
    """Hash of a network's tensors that features depend on."""
    content = hashlib.sha256()
    for name in sorted(needed(state)):
        content.update(state[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()[:16]


class ResNet(FrozenBackbone):
    """torchvision's ResNet: the max-pooled stem, then every bottleneck's sum before its last ReLU."""

    width = EIGHTH  # as published
    least_width = 1

    def network(self) -> nn.Module:
        return getattr(torchvision.models, self.name)(weights=None)

    @classmethod
    def pretrained(cls) -> State:
        """IMAGENET1K_V1, from torch's cache or the network."""
        return torch.hub.load_state_dict_from_url(
            cls.fetch, map_location="cpu", weights_only=True, check_hash=True
        )

    def forward(self, images: Tensor) -> Iterator[Tensor]:
        net = self.net
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        yield x
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in stage:
                y = block.relu(block.bn1(block.conv1(x)))
                y = block.relu(block.bn2(block.conv2(y)))
                y = block.bn3(block.conv3(y))
                y += x if block.downsample is None else block.downsample(x)
                yield y
                x = torch.relu(y)


class ResNet50(ResNet):
    name = "resnet50"
    channels = (64, *(256,) * 3, *(512,) * 4, *(1024,) * 6, *(2048,) * 3)
    fetch = "https://download.pytorch.org/models/resnet50-0676ba61.pth"


class ResNet101(ResNet):
    name = "resnet101"
    channels = (64, *(256,) * 3, *(512,) * 4, *(1024,) * 23, *(2048,) * 3)
    fetch = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
