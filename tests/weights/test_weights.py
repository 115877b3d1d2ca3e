"""Backbones' weights as files have them (docs/backbones.md), and checkpoints that know theirs."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor

from dhpf.common.errors import UserError
from dhpf.model import BACKBONES
from dhpf.weights import files as weights
from dhpf.weights.checkpoint import build_model, load_model
from dhpf.weights.pretrained import MisfitError, fitting
from tests.model.test_timm import scrambled


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
        hashes.add(build_model("timm:resnet18", path).backbone.weights_hash)
    safetensors.torch.save_file(state, path.with_suffix(".safetensors"))
    found = build_model("timm:resnet18", path.with_suffix(".safetensors")).backbone
    assert hashes == {found.digest}
    torch.save(files(state)["teacher"], path)
    assert build_model("timm:resnet18", path).backbone.weights_note == "1 not used: head.mlp.0.bias"


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
    weights.write(path, model.learner.state_dict(), {**model.backbone.metadata, "voting": "none"})
    again, known = load_model(path, weights="random")
    assert (again.backbone.blocks, again.backbone.input_size, again.backbone.reduced_channels) == (
        (1, 4),
        96,
        (8, 8),
    )
    assert (known.backbone, again.voting) == ("timm:resnet18", "none")
    with pytest.raises(UserError, match=r"--backbone resnet50: .* belongs to timm:resnet18"):
        load_model(path, "resnet50", "random")
    with pytest.raises(UserError, match=r"--backbone-layers 1,5: .* belongs to 1,4"):
        load_model(path, weights="random", layers=(1, 5))
    with pytest.raises(UserError, match=r"--backbone-side 128: .* belongs to 96"):
        load_model(path, weights="random", side=128)
    torch.save(scrambled(torchvision.models.resnet18().state_dict()), tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"hash {model.backbone.weights_hash}, and these have"):
        load_model(path, weights=tmp_path / "other.pth")
