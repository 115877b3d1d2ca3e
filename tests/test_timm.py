"""Any network of timm as a backbone (docs/backbones.md): its blocks, its weights' files, its checkpoints."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from dhpf.common import weights
from dhpf.common.errors import UserError
from dhpf.evaluation.matcher import Matcher
from dhpf.model import BACKBONES, timm_backbone
from dhpf.model.checkpoint import build_model, load_model
from dhpf.model.pretrained import MisfitError, fitting
from dhpf.training.supervision import strong_step

# Each with the side of pictures of 64×64 pixels, and the number and sides of its layers then.
NETWORKS = {
    "resnet18": (64, 9, 16, 2),
    "wide_resnet50_2": (64, 17, 16, 2),
    "convnext_tiny": (64, 22, 16, 2),
    "efficientnet_b0": (64, 15, 16, 2),
    "mobilenetv3_large_100": (64, 15, 16, 2),
    "vit_small_patch16_224": (64, 12, 4, 4),
    "vit_small_patch14_dinov2": (70, 12, 5, 5),
    "vit_small_patch14_reg4_dinov2": (70, 12, 5, 5),
    "vit_small_patch16_dinov3": (64, 12, 4, 4),
    "swin_tiny_patch4_window7_224": (64, 13, 16, 2),
    "eva02_tiny_patch14_224": (70, 12, 5, 5),
}


create = timm_backbone.created
drawn = cache(create)


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are copied, which takes a tenth of drawing their weights anew; resnet18 is drawn each time."""

    def created(arch: str) -> Any:
        real = arch == "resnet18" or torch.get_default_device().type == "meta"
        return create(arch) if real else deepcopy(drawn(arch))

    monkeypatch.setattr(timm_backbone, "created", created)


def scrambled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with which no batch norm is the identity."""
    torch.manual_seed(0)
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return state


@pytest.mark.parametrize("arch", NETWORKS)
def test_a_network_matches_learns_and_comes_back_from_its_checkpoint(arch: str, tmp_path: Path) -> None:
    shown, layers, finest, coarsest = NETWORKS[arch]
    model = build_model(f"timm:{arch}", "random")
    assert model.picture_side(64) == shown
    images = torch.randn(2, 3, shown, shown)
    maps = list(model.backbone(images))
    assert tuple(m.shape[1] for m in maps) == model.backbone.channels
    assert (len(maps), maps[0].shape[-1], maps[-1].shape[-1]) == (layers, finest, coarsest)
    assert model.backbone.widths == tuple(min(64, c) for c in model.backbone.channels)
    batch: dict[str, Any] = {
        "src_img": images, "trg_img": images.flip(0), "src_kps": torch.full((2, 2, 1), 30.0),
        "trg_kps": torch.full((2, 2, 1), 33.0), "n_pts": torch.ones(2).long(), "longest": 1,
        "pckthres": torch.full((2,), 64.0),
    }  # fmt: skip
    step = strong_step(model.train(), batch, 0.1, 0.5, torch.rand(layers, 2, 2))
    step.loss.backward()
    assert any(p.grad.abs().sum() > 0 for p in model.learner.parameters() if p.grad is not None)
    path = tmp_path / "best_model.safetensors"
    weights.write(path, model.learner.state_dict(), {**model.backbone.about, "voting": "hough"})
    again, known = load_model(path, weights="random")
    assert known.backbone == f"timm:{arch}"
    again.picture_side(64)
    with torch.no_grad():
        matches = [m.eval()(images[:1], images[1:]) for m in (model, again)]
    assert torch.equal(matches[0].scores.column_max, matches[1].scores.column_max)
    assert matches[0].side == 16


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_ours_and_timms_are_equal_to_the_bit(name: str) -> None:
    arch = {"resnet50": "resnet50", "efficientnet_lite0": "tf_efficientnet_lite0"}[name]
    state = scrambled(timm.create_model(arch).state_dict())
    ours, timms = BACKBONES[name](state), BACKBONES[f"timm:{arch}"](state)
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    assert ours.digest == timms.digest
    assert all(torch.equal(a, b) for a, b in zip(ours(images), timms(images), strict=True))


def test_tokens_are_the_patches_without_class_and_registers() -> None:
    """Against timm's own intermediate features."""
    cls = BACKBONES["timm:vit_small_patch14_reg4_dinov2"]
    state = cls.network(cls).state_dict()
    plain = timm.create_model("vit_small_patch14_reg4_dinov2", dynamic_img_size=True)
    plain.load_state_dict(state)
    backbone, images = cls(state), torch.randn(1, 3, 70, 70)
    backbone.picture_side(70)
    with torch.no_grad():
        expected = plain.eval().forward_intermediates(images, intermediates_only=True)
    for actual, e in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(actual, e)


def test_a_layer_of_a_network_is_the_same_among_fewer() -> None:
    cls = BACKBONES["timm:resnet18"]
    state = scrambled(cls.network(cls).state_dict())
    every, some, images = cls(state), cls(state, layers=(2, 5)), torch.randn(1, 3, 64, 64)
    maps = list(every(images))
    assert all(torch.equal(a, maps[k]) for a, k in zip(some(images), (2, 5), strict=True))
    assert some.channels == (64, 256)
    with pytest.raises(UserError, match=r"--backbone-layers 9: the blocks of timm:resnet18 are 0 to 8"):
        cls(state, layers=(9,))


def test_larger_pictures_leave_the_grid_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    matcher = Matcher.load("timm:resnet18", backbone_weights="random", side=128, img_side=64, device="cpu")
    found = matcher.match(image, image, [(30, 40)])
    assert found.matches.side == 16
    assert np.abs(found.points - [[30, 40]]).max() < 2 * 120 / 16
    assert "128×128" in matcher.model.backbone.cost(64)


def files(state: dict[str, Tensor]) -> dict[str, Any]:
    """A network's weights in the ways that files have them."""
    return {
        "plain": state,
        "state_dict": {"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3},
        "model": {"model": {f"_orig_mod.{n}": t for n, t in state.items()}},
        "teacher": {"teacher": {f"backbone.{n}": t for n, t in state.items()} | {"head.mlp.0.bias": torch.ones(3)}},
        "headless": {n: t for n, t in state.items() if not n.startswith("fc.")},
    }  # fmt: skip


def test_weights_are_read_as_files_have_them(tmp_path: Path) -> None:
    state = scrambled(torchvision.models.resnet18().state_dict())
    path, hashes = tmp_path / "weights.pth", set()
    for content in files(state).values():
        torch.save(content, path)
        hashes.add(build_model("timm:resnet18", path).backbone.digest)
    safetensors.torch.save_file(state, path.with_suffix(".safetensors"))
    found = build_model("timm:resnet18", path.with_suffix(".safetensors")).backbone
    assert hashes == {found.digest}
    torch.save(files(state)["teacher"], path)
    assert build_model("timm:resnet18", path).backbone.note == "1 not used: head.mlp.0.bias"


def test_dino_hubs_names_are_timms() -> None:
    """Of facebookresearch's file: register_tokens, a mask token, and a class token that has a place."""
    cls = BACKBONES["timm:vit_small_patch14_reg4_dinov2"]
    own = cls.network(cls).state_dict()
    hub = {n.replace("reg_token", "register_tokens"): t for n, t in own.items()}
    hub |= {
        "mask_token": torch.zeros(1, 384),
        "pos_embed": torch.cat([own["cls_token"], own["pos_embed"]], 1),
    }
    hub["cls_token"] = torch.zeros_like(own["cls_token"])
    found = cls(hub).net.state_dict()
    assert torch.equal(found["reg_token"], own["reg_token"])
    assert torch.equal(found["pos_embed"], own["pos_embed"])
    torch.testing.assert_close(found["cls_token"], own["cls_token"])


LAYER = {  # of transformers, in files of its versions before and after the fifth
    "old": {
        "attn.q.": "attention.attention.query.", "attn.k.": "attention.attention.key.",
        "attn.v.": "attention.attention.value.", "attn.proj.": "attention.output.dense.",
        "mlp.fc1.": "intermediate.dense.", "mlp.fc2.": "output.dense.",
        "norm1.": "layernorm_before.", "norm2.": "layernorm_after.",
    },
    "new": {
        "attn.q.": "attention.q_proj.", "attn.k.": "attention.k_proj.", "attn.v.": "attention.v_proj.",
        "attn.proj.": "attention.o_proj.", "mlp.fc1.": "mlp.up_proj.", "mlp.fc2.": "mlp.down_proj.",
    },
}  # fmt: skip
OUTSIDE = {
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.", "norm.": "layernorm.", "head.": "classifier.",
    "cls_token": "embeddings.cls_token", "reg_token": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
}  # fmt: skip


def as_transformers(state: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    """timm's tensors of a vision transformer as the library transformers writes them."""
    blocks = {"old": "vit.encoder.layer.", "new": "model.layer."}[form]
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith("blocks."):
            outside = next(part for part in OUTSIDE if name.startswith(part))
            named[name.replace(outside, OUTSIDE[outside])] = tensor
            continue
        block, inside = name.removeprefix("blocks.").split(".", 1)
        parts = dict(zip("qkv", tensor.chunk(3), strict=True)) if ".qkv." in name else {"": tensor}
        for part, own in parts.items():
            theirs = inside.replace("qkv", part).replace("gamma_", "layer_scale")
            theirs += ".lambda1" if "gamma_" in inside else ""
            for ours, other in LAYER[form].items():
                theirs = theirs.replace(ours, other)
            named[f"{blocks}{block}.{theirs}"] = own.clone()
    return named


@pytest.mark.parametrize(
    ("arch", "form"), [("vit_small_patch16_224", "old"), ("vit_small_patch16_dinov3", "new")]
)
def test_transformers_names_are_timms(arch: str, form: str) -> None:
    net = timm.create_model(arch)
    own = net.state_dict()
    for tensor in own.values():
        tensor.uniform_()
    theirs = as_transformers(own, form)
    assert not theirs.keys() & own.keys()
    found, _ = fitting(net, theirs)
    assert all(torch.equal(found[name], own[name]) for name in own)
    if form == "new":  # queries, keys and values without a bias, as most DINOv3 have
        bias = {"model.layer.3.attention.q_proj.bias": torch.zeros(384)}
        assert torch.equal(fitting(net, theirs | bias)[0]["norm.bias"], own["norm.bias"])
        bias["model.layer.3.attention.q_proj.bias"][5] = 1
        with pytest.raises(MisfitError, match="_qkvb"):
            fitting(net, theirs | bias)


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    own = torchvision.models.resnet18().state_dict()
    others = {
        "lacks": {name: tensor for name, tensor in own.items() if not name.startswith("layer4.1")},
        "is of a larger network": torchvision.models.resnet34().state_dict(),
        "of shape": own | {"layer1.0.conv1.weight": torch.zeros(64, 32, 3, 3)},
    }
    path = tmp_path / "weights.pth"
    for reason, state in others.items():
        torch.save(state, path)
        words = rf"weights.pth: the file does not hold .* timm:resnet18: it .*{reason}"
        with pytest.raises(UserError, match=words):
            build_model("timm:resnet18", path)


def test_checkpoints_know_their_backbone(tmp_path: Path) -> None:
    path = tmp_path / "best_model.safetensors"
    model = build_model("timm:resnet18", "random", layers=(1, 4), side=96, width=8)
    weights.write(path, model.learner.state_dict(), {**model.backbone.about, "voting": "none"})
    again, known = load_model(path, weights="random")
    assert (again.backbone.layers, again.backbone.side, again.backbone.widths) == ((1, 4), 96, (8, 8))
    assert (known.backbone, again.voting) == ("timm:resnet18", "none")
    with pytest.raises(UserError, match=r"--backbone resnet50: .* belongs to timm:resnet18"):
        load_model(path, "resnet50", "random")
    with pytest.raises(UserError, match=r"--backbone-layers 1,5: .* belongs to 1,4"):
        load_model(path, weights="random", layers=(1, 5))
    with pytest.raises(UserError, match=r"--backbone-side 128: .* belongs to 96"):
        load_model(path, weights="random", side=128)
    torch.save(scrambled(torchvision.models.resnet18().state_dict()), tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"hash {model.backbone.digest}, and these have"):
        load_model(path, weights=tmp_path / "other.pth")


def test_wrong_names_get_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean timm:swin_tiny_patch4_window7_224"):
        BACKBONES["timm:swin_tiny"]
    with pytest.raises(UserError, match="did you mean timm:resnet50"):
        BACKBONES["timm:resnet_50"]


class Flat(nn.Module):
    """A network that sees no place: one layer over all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 8, 8)}
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(192, 192), nn.Linear(192, 192)) for _ in range(2))
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(images.flatten(1))


def test_a_network_without_places_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "list_models", lambda: ["flat"])
    monkeypatch.setattr(timm_backbone, "created", lambda _: Flat())
    with pytest.raises(UserError, match="timm:flat has no spatial features that could be matched"):
        BACKBONES["timm:flat"]


def test_images_are_read_at_the_backbones_side(tmp_path: Path) -> None:
    """Not enlarged from the frame: what a larger picture shows is there."""
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # gone in a frame of 64 pixels
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    seen: list[float] = []
    matcher = Matcher.load("timm:resnet18", backbone_weights="random", side=256, img_side=64, device="cpu")
    matcher.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].std().item()))
    matcher.encode(tmp_path / "stripes.png")
    assert seen[0] > 1
