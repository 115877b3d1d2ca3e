"""Backbones give the maps of the plain networks (docs/method.md, section 2), frozen."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from skimage.data import chelsea
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from dhpf.model import BACKBONES
from dhpf.model.backbone import FrozenBackbone
from dhpf.model.dhpf import DHPF
from dhpf.weights.imagenet import pretrained
from tests.helpers.models import build

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
TABBY, EGYPTIAN = 281, 285  # ImageNet's five classes of domestic cats lie between


def random_state(net: nn.Module) -> dict[str, Tensor]:
    """Weights and batch-norm statistics with which no batch norm is the identity."""
    state = net.state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.dim() == 1 and value.is_floating_point():
            value.normal_(0.3 if name.endswith("weight") else 0, 0.1)
    return state


def residual_sums(net: nn.Module, images: Tensor) -> list[Tensor]:
    """The map behind the max-pooling and what enters the last ReLU of every bottleneck, by hooks."""
    maps, entered = [], []
    net.maxpool.register_forward_hook(lambda *call: maps.append(call[2].clone()))
    for block in (b for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for b in stage):
        block.relu.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].clone()))
    with torch.no_grad():
        net.eval()(images)
    return maps + entered[2::3]  # one module is a bottleneck's three ReLUs


def check_maps(backbone: FrozenBackbone, maps: list[Tensor], expected: list[Tensor]) -> None:
    assert tuple(m.shape[1] for m in maps) == backbone.channels
    for actual, e in zip(maps, expected, strict=True):
        torch.testing.assert_close(actual, e, rtol=0, atol=2e-5 * e.abs().max().item())


@pytest.mark.parametrize("arch", ["resnet50", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_resnet_layers_are_the_sums_before_the_last_relu(arch: str) -> None:
    torch.manual_seed(0)
    plain, images = getattr(torchvision.models, arch)(weights=None), torch.randn(1, 3, 240, 240)
    backbone = BACKBONES[arch](random_state(plain))
    maps = list(backbone.layer_maps(images))
    counts = (1 + BLOCKS[arch][0], *BLOCKS[arch][1:])
    sides = [s for s, n in zip((60, 30, 15, 8), counts, strict=True) for _ in range(n)]
    assert [m.shape[-1] for m in maps] == sides
    assert backbone.reduced_channels == tuple(c // 8 for c in backbone.channels)
    check_maps(backbone, maps, residual_sums(plain, images))


@pytest.fixture(scope="module")
def lite() -> FrozenBackbone:
    return build("efficientnet_lite0", None).backbone


def cat() -> Tensor:
    """scikit-image's photograph of a cat as 240×240 RGB in [0, 1]."""
    image = torch.from_numpy(chelsea()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image, (240, 240), mode="bilinear", antialias=True)


def test_efficientnet_layers_are_the_blocks_of_timms_network(lite: FrozenBackbone) -> None:
    """The package's tensors lie in the network's order, and the images' normalisation is undone."""
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = pretrained("efficientnet_lite0")
    plain.load_state_dict(dict(zip(plain.state_dict(), state.values(), strict=True)))
    expected: list[Tensor] = []
    for block in (b for stage in plain.blocks for b in stage):
        block.register_forward_hook(lambda *call: expected.append(call[2].clone()))
    image = cat()
    with torch.no_grad():
        logits = plain.eval()(2 * image - 1)
    assert TABBY <= int(logits.argmax()) <= EGYPTIAN
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    maps = list(lite.layer_maps((image - mean) / std))
    assert lite.reduced_channels == tuple(min(64, c) for c in lite.channels)
    check_maps(lite, maps, [m for m in expected if m.shape[-1] <= 60])


def test_a_backbone_is_frozen(lite: FrozenBackbone) -> None:
    model = DHPF(lite).train()
    assert model.learner.training
    assert not any(module.training for module in lite.modules())
    assert not any(parameter.requires_grad for parameter in lite.parameters())
    before = {name: value.clone() for name, value in lite.state_dict().items()}
    maps = lite.layer_maps(torch.randn(2, 3, 64, 64))
    assert not any(m.requires_grad for m in maps)
    assert all(torch.equal(value, before[name]) for name, value in lite.state_dict().items())
