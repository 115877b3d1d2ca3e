"""Backbones give the maps of the plain networks (docs/method.md, section 2), frozen."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from skimage.data import chelsea
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from dhpf.common.errors import UserError
from dhpf.model import BACKBONES
from dhpf.model.dhpf import DHPF
from dhpf.model.timm_backbone import EfficientNetLite0

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


@pytest.mark.parametrize("arch", BLOCKS)
def test_resnet_layers_are_the_sums_before_the_last_relu(arch: str) -> None:
    torch.manual_seed(0)
    plain, images = getattr(torchvision.models, arch)(weights=None), torch.randn(1, 3, 240, 240)
    backbone = BACKBONES[arch](random_state(plain))
    maps, expected = list(backbone(images)), residual_sums(plain, images)
    counts = (1 + BLOCKS[arch][0], *BLOCKS[arch][1:])
    assert [m.shape[-1] for m in maps] == [
        s for s, n in zip((60, 30, 15, 8), counts, strict=True) for _ in range(n)
    ]
    assert len(maps) == {"resnet50": 17, "resnet101": 34}[arch]
    assert tuple(m.shape[1] for m in maps) == backbone.channels
    assert backbone.widths == tuple(c // 8 for c in backbone.channels)
    for actual, e in zip(maps, expected, strict=True):
        torch.testing.assert_close(actual, e, rtol=0, atol=2e-5 * e.abs().max().item())


@pytest.fixture(scope="module")
def lite() -> EfficientNetLite0:
    return EfficientNetLite0(EfficientNetLite0.pretrained())


def cat() -> Tensor:
    """scikit-image's photograph of a cat as 240×240 RGB in [0, 1]."""
    image = torch.from_numpy(chelsea()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image, (240, 240), mode="bilinear", antialias=True)


def test_efficientnet_layers_are_the_blocks_of_timms_network(lite: EfficientNetLite0) -> None:
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    plain.load_state_dict(dict(zip(plain.state_dict(), lite.pretrained().values(), strict=True)))
    expected: list[Tensor] = []
    for block in (b for stage in plain.blocks for b in stage):
        block.register_forward_hook(lambda *call: expected.append(call[2].clone()))
    image = cat()
    with torch.no_grad():
        plain.eval()(2 * image - 1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    maps = list(lite((image - mean) / std))
    expected = [m for m in expected if m.shape[-1] <= 60]
    assert len(maps) == 15
    assert tuple(m.shape[1] for m in maps) == lite.channels
    assert lite.widths == tuple(min(64, c) for c in lite.channels)
    for actual, e in zip(maps, expected, strict=True):
        torch.testing.assert_close(actual, e, rtol=0, atol=2e-5 * e.abs().max().item())


def test_efficientnet_names_a_cat_a_cat(lite: EfficientNetLite0) -> None:
    """The package's tensors lie in the network's order, and the images' normalisation is undone."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    *_, last = lite((cat() - mean) / std)
    logits = lite.net.forward_head(lite.net.bn2(lite.net.conv_head(last)))
    assert TABBY <= int(logits.argmax()) <= EGYPTIAN


def test_a_backbone_is_frozen(lite: EfficientNetLite0) -> None:
    model = DHPF(lite).train()
    assert model.learner.training
    assert not any(module.training for module in lite.modules())
    assert not any(parameter.requires_grad for parameter in lite.parameters())
    before = {name: value.clone() for name, value in lite.state_dict().items()}
    maps = lite(torch.randn(2, 3, 64, 64))
    assert not any(m.requires_grad for m in maps)
    assert all(torch.equal(value, before[name]) for name, value in lite.state_dict().items())


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(UserError, match="lacks"):
        BACKBONES["resnet50"](torchvision.models.resnet18(weights=None).state_dict())
