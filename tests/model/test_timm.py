"""Any network of timm as a backbone (docs/backbones.md): its blocks and their maps, and learning on them."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.matching.matcher import Matcher
from dhpf.model import BACKBONES, timm_backbone
from dhpf.training.supervision import strong_step
from dhpf.weights import files as weights
from dhpf.weights.checkpoint import load_model
from dhpf.weights.config import ModelConfig
from tests.helpers.models import build, scrambled

# Each with the side of pictures of 64×64 pixels, and the number and sides of its layers then.
NETWORKS = {
    "resnet18": (64, 9, 16, 2),
    "mobilenetv3_large_100": (64, 15, 16, 2),
    "vit_small_patch14_reg4_dinov2": (70, 13, 5, 5),
    "vit_small_patch16_224": (64, 13, 4, 4),
    "swin_tiny_patch4_window7_224": (64, 13, 16, 2),
    "convnext_tiny": (64, 22, 16, 2),
    "efficientnet_b0": (64, 15, 16, 2),
    "vit_small_patch16_dinov3": (64, 13, 4, 4),
    "eva02_tiny_patch14_224": (70, 12, 5, 5),
}
FAST = list(NETWORKS)[:3]


create = timm_backbone.create_network
drawn = cache(create)


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are copied, which takes a tenth of drawing their weights anew; resnet18 is drawn each time."""

    def create_or_copy(arch: str) -> Any:
        real = arch == "resnet18" or torch.get_default_device().type == "meta"
        return create(arch) if real else deepcopy(drawn(arch))

    monkeypatch.setattr(timm_backbone, "create_network", create_or_copy)


@pytest.mark.parametrize(
    "arch", [*FAST, *(pytest.param(arch, marks=pytest.mark.slow) for arch in NETWORKS if arch not in FAST)]
)
def test_a_network_matches_learns_and_comes_back_from_its_checkpoint(arch: str, tmp_path: Path) -> None:
    size, layers, finest, coarsest = NETWORKS[arch]
    model = build(f"timm:{arch}")
    assert model.backbone.input_size_for(64) == size
    images = torch.randn(2, 3, size, size)
    maps = list(model.backbone.layer_maps(images, 64))
    assert tuple(m.shape[1] for m in maps) == model.backbone.channels
    assert (len(maps), maps[0].shape[-1], maps[-1].shape[-1]) == (layers, finest, coarsest)
    assert model.backbone.reduced_channels == tuple(min(64, c) for c in model.backbone.channels)
    batch: dict[str, Any] = {
        "src_img": images, "trg_img": images.flip(0), "src_kps": torch.full((2, 2, 1), 30.0),
        "trg_kps": torch.full((2, 2, 1), 33.0), "n_pts": torch.ones(2).long(), "longest": 1,
        "pckthres": torch.full((2,), 64.0), "frame": 64,
    }  # fmt: skip
    step = strong_step(model.train(), batch, 0.1, 0.5, torch.rand(layers, 2, 2))
    step.loss.backward()
    assert any(p.grad.abs().sum() > 0 for p in model.learner.parameters() if p.grad is not None)
    path = tmp_path / "best_model.safetensors"
    weights.write(path, model.learner.state_dict(), ModelConfig.of_model(model).to_metadata())
    again, _ = load_model(path, "random")
    assert again.backbone.name == f"timm:{arch}"
    with torch.no_grad():
        matches = [m.eval()(images[:1], images[1:], frame=64) for m in (model, again)]
    assert torch.equal(matches[0].scores.column_max, matches[1].scores.column_max)
    assert matches[0].side == 16


@pytest.mark.parametrize("name", [pytest.param("resnet50", marks=pytest.mark.slow), "efficientnet_lite0"])
def test_ours_and_timms_are_equal_to_the_bit(name: str) -> None:
    arch = {"resnet50": "resnet50", "efficientnet_lite0": "tf_efficientnet_lite0"}[name]
    state = scrambled(timm.create_model(arch).state_dict())
    ours, timms = BACKBONES[name](state), BACKBONES[f"timm:{arch}"](state)
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    assert ours.weights_hash == timms.weights_hash
    assert all(
        torch.equal(a, b) for a, b in zip(ours.layer_maps(images), timms.layer_maps(images), strict=True)
    )


def test_tokens_are_the_patches_without_class_and_registers() -> None:
    """Against timm's own intermediate features."""
    cls = BACKBONES["timm:vit_small_patch14_reg4_dinov2"]
    state = cls.network(cls).state_dict()
    plain = timm.create_model("vit_small_patch14_reg4_dinov2", dynamic_img_size=True)
    plain.load_state_dict(state)
    backbone, images = cls(state), torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        expected = plain.eval().forward_intermediates(images, intermediates_only=True)
        last = plain.forward_features(images)[:, plain.num_prefix_tokens :]
    expected.append(last.mT.unflatten(2, (5, 5)))  # after the final norm
    for actual, e in zip(backbone.layer_maps(images, 72), expected, strict=True):
        torch.testing.assert_close(actual, e)


def test_a_checkpoint_from_before_the_final_norm_was_a_layer_keeps_its_layers(tmp_path: Path) -> None:
    model = build("timm:vit_small_patch14_reg4_dinov2", blocks=tuple(range(12)))
    metadata = ModelConfig.of_model(model).to_metadata()
    del metadata["backbone_layers"]  # it had all
    path = tmp_path / "best_model.safetensors"
    weights.write(path, model.learner.state_dict(), metadata)
    again, _ = load_model(path, "random")
    assert ModelConfig.of_model(again) == ModelConfig.of_model(model)


def test_wrong_names_get_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean timm:swin_tiny_patch4_window7_224"):
        BACKBONES["timm:swin_tiny"]
    with pytest.raises(UserError, match="did you mean timm:resnet50"):
        BACKBONES["timm:resnet_50"]


def test_images_are_read_at_the_backbones_side(tmp_path: Path) -> None:
    """Not enlarged from the frame: what a larger picture shows is there."""
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # gone in a frame of 64 pixels
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    seen: list[float] = []
    matcher = Matcher.load(
        "timm:resnet18", backbone_weights="random", backbone_side=256, img_side=64, device="cpu"
    )
    matcher.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].std().item()))
    matcher.encode(tmp_path / "stripes.png")
    assert seen[0] > 1
