"""Frozen backbones and their hyperpixel layers (docs/method.md, section 2; docs/backbones.md).

A backbone is one small subclass of `FrozenBackbone`, entered in `dhpf.model.BACKBONES`, with

    name         what it is entered as: checkpoints carry it
    channels     channels of the map of every block
    network()    the plain network, whose batch norms are folded when its weights are in
    forward      yields the maps of all blocks for images B×3×s×s, ImageNet-normalised, each B×C×h×h, sides never
                 growing; h = s / 4 is the side of the correlation grid
    pretrained() the state dict of the weights that it is meant to run with, a class method; may be missing

`timm:NAME` makes one of any network of timm (`dhpf.model.timm_backbone`).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, pairwise
from typing import Any

import torch
import torchvision
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dhpf.common.errors import UserError
from dhpf.model import BACKBONES, EIGHTH
from dhpf.model.grid import STRIDE, check_frame

State = Mapping[str, Tensor]  # a state dict
Channels = tuple[int, ...]
HEADS = ("fc.", "head.", "head_dist.", "classifier.")  # tensors of classifiers, behind the features
DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask")  # tensors that are no weights


class ClassProperty:
    """An attribute of a class, computed when it is asked for. An instance may have an attribute of its own instead."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __get__(self, instance: object, owner: type) -> Any:
        return self.function(owner)


class FrozenBackbone(nn.Module):
    """A network that never trains: no gradient, and batch norms folded into their convolutions.

    Args:
        state: its weights, named as `network`'s; a classifier's may be missing.
        blocks: which of its blocks are hyperpixel layers, ascending; all if not given.
        input_size: side of the images that it is given, pixels, if that is not the frame's.
        reduced_channels: of every layer after the learned transformation: `EIGHTH` of its channels, at most a number,
            or one for each; the class says it if not given.
        network: the plain network, if it has been made already; its weights are replaced.
    Raises:
        UserError: `state` does not fit the network, or it has no such blocks.

    channels, reduced_channels: of every layer before and after the learned transformation.
    weights_hash: hash of the weights without the classifier's.
    weights_note: what of a file of weights was not used, in a line; set by who read the file.
    """

    name: str
    channels: Channels
    reduced_channels: Channels = ClassProperty(  # type: ignore[assignment]
        lambda cls: cls.reduce(cls.channels, cls.max_reduced_channels)
    )
    max_reduced_channels: int | str = 64
    min_reduced_channels = 16  # of an eighth: with fewer, a layer tells too little
    input_multiple = 1  # pixels: sides of images are multiples of it
    weights_note = ""
    features: Any = None  # where what it is given of an image comes from, if not from its pixels
    net: Any

    def __init__(
        self,
        state: State,
        blocks: tuple[int, ...] | None = None,
        input_size: int | None = None,
        reduced_channels: int | str | Channels | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        count = len(self.channels)
        if wrong := [block for block in blocks or () if not 0 <= block < count]:
            raise UserError(f"{self.name} has no block {wrong[-1]}: its blocks are 0 to {count - 1}")
        self.blocks, self.input_size = blocks, input_size
        self.reduction = self.max_reduced_channels if reduced_channels is None else reduced_channels
        self.channels = tuple(self.channels[k] for k in blocks or range(count))
        self.reduced_channels = self.reduce(self.channels, self.reduction)
        net = self.network() if network is None else network
        own = net.state_dict()
        for name in feature_tensors(own):
            if name not in state or state[name].shape != own[name].shape:
                raise UserError(f"no weights of {self.name}: '{name}' is missing or has another shape")
        known = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
        net.load_state_dict(known, strict=False)
        self.weights_hash = weights_hash(net.state_dict())
        self.net = net.eval()
        for conv, norm in self.convs_and_norms():
            fold(self.net, conv, norm)
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    @classmethod
    def reduce(cls, channels: Channels, reduction: int | str | Channels) -> Channels:
        """Channels after the learned transformation; `reduction` as `FrozenBackbone`'s reduced_channels."""
        if isinstance(reduction, tuple):
            return reduction
        if isinstance(reduction, int):
            return tuple(min(c, reduction) for c in channels)
        return tuple(max(cls.min_reduced_channels, c // 8) for c in channels)

    def network(self) -> nn.Module:
        """The plain network, with any weights."""
        raise NotImplementedError(f"{type(self).__name__} defines no network()")

    def convs_and_norms(self) -> list[tuple[str, str]]:
        """Names of convolutions and of the batch norms that directly follow each, as the network lists its parts."""
        modules = [(name, list(module.named_children())) for name, module in self.net.named_modules()]
        return [
            (f"{name}.{conv}".lstrip("."), f"{name}.{norm}".lstrip("."))
            for name, children in modules
            for (conv, a), (norm, b) in pairwise(children)
            if isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d)
        ]

    def input_size_for(self, frame: int) -> int:
        """Side of the images to give where matches are in frames of this side, pixels."""
        return self.nearest_input_size(self.input_size or frame)

    def blank(self, frame: int) -> Tensor:
        """An image of nothing as it is given one: 1×3×s×s."""
        side = self.input_size_for(frame)
        return torch.zeros(1, 3, side, side)

    def nearest_input_size(self, side: int) -> int:
        """The side nearest to this one that the network takes, pixels."""
        return max(1, round(side / self.input_multiple)) * self.input_multiple

    def cost_note(self, frame: int) -> str:
        """What images of its own size cost beside those of the frame's, in words; empty if it has none."""
        if not self.input_size:
            return ""
        side = self.nearest_input_size(self.input_size)
        area = (side / frame) ** 2
        return (
            f"{self.name} is given {side}×{side} pixels, {area:.1f} times those of the {frame} frame: so many times "
            f"its time and its maps' memory (attention over tokens {area**2:.1f} times); the grid stays "
            f"{frame // STRIDE}×{frame // STRIDE}"
        )

    def layer_maps(self, images: Tensor, frame: int | None = None) -> Iterator[Tensor]:
        """The maps of the hyperpixel layers, each computed when it is asked for.

        Args:
            images: B×3×s×s, where s is the side of the frame or `input_size_for` it.
            frame: side of the frame, pixels; that of the images if not given.
        Raises:
            UserError: images of another side, or no frame that can be matched.
        """
        height, width = images.shape[-2:]
        if frame is None and self.input_size:
            raise UserError(
                f"{self.name} is given images of its own size, {self.input_size} pixels: give the frame's side, too"
            )
        frame = frame or width
        check_frame(frame, frame)
        if height != width or width not in (frame, self.input_size_for(frame)):
            raise UserError(
                f"images of {width}×{height} pixels in a frame of {frame}: {self.name} is given squares of "
                f"{self.input_size_for(frame)}"
            )
        return self.select_blocks(self(images))

    def select_blocks(self, maps: Iterator[Tensor]) -> Iterator[Tensor]:
        """The maps of the hyperpixel layers, from those that `forward` yields."""
        if self.blocks is None:
            return maps
        return (m for k, m in enumerate(islice(maps, self.blocks[-1] + 1)) if k in self.blocks)

    @property
    def metadata(self) -> dict[str, str]:
        """What tells it from others, as checkpoints and run folders have it."""
        width = self.reduction if isinstance(self.reduction, str) else str(max(self.reduced_channels))
        metadata = {"backbone": self.name, "backbone_weights": self.weights_hash, "width": width}
        metadata |= {"backbone_layers": ",".join(map(str, self.blocks))} if self.blocks else {}
        return metadata | ({"backbone_side": str(self.input_size)} if self.input_size else {})

    def train(self, mode: bool = True) -> "FrozenBackbone":
        return super().train(False)


def unbuilt(name: str) -> FrozenBackbone:
    """A backbone that unpickling fills: no module has the class of `timm:NAME` or `files:DIR`."""
    cls = BACKBONES[name]
    return cls.__new__(cls)


Frozen = FrozenBackbone  # its name in docs/extending.md of earlier versions


def fold(net: nn.Module, conv: str, norm: str) -> None:
    """Fold a batch norm into the convolution before it; a fused activation stays."""
    old: Any = net.get_submodule(norm)
    net.set_submodule(conv, fuse_conv_bn_eval(net.get_submodule(conv), old))  # type: ignore[type-var]
    net.set_submodule(norm, old.act if isinstance(old, BatchNormAct2d) else nn.Identity())


def feature_tensors(state: State) -> list[str]:
    """Names of a network's tensors that features depend on."""
    return [name for name in state if not name.startswith(HEADS) and not name.endswith(DERIVED)]


def weights_hash(state: State) -> str:
    """Hash of a network's tensors that features depend on."""
    content = hashlib.sha256()
    for name in sorted(feature_tensors(state)):
        content.update(state[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()[:16]


class ResNet(FrozenBackbone):
    """torchvision's ResNet: the max-pooled stem, then every bottleneck's sum before its last ReLU."""

    max_reduced_channels = EIGHTH  # as published
    min_reduced_channels = 1

    def network(self) -> nn.Module:
        return getattr(torchvision.models, self.name)(weights=None)

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


class ResNet101(ResNet):
    name = "resnet101"
    channels = (64, *(256,) * 3, *(512,) * 4, *(1024,) * 23, *(2048,) * 3)
