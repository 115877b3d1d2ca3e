"""Backbones' weights as files have them (docs/backbones.md), and checkpoints that know theirs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor

from dhpf.matching.matcher import Matcher
from dhpf.model import BACKBONES
from dhpf.weights.key_names import MisfitError, fitting
from tests.helpers import tiny
from tests.helpers.commands import TINY, refused, succeed
from tests.helpers.models import build, draw_learner, scrambled


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
        hashes.add(build("timm:resnet18", path).backbone.weights_hash)
    safetensors.torch.save_file(state, path.with_suffix(".safetensors"))
    found = build("timm:resnet18", path.with_suffix(".safetensors")).backbone
    assert hashes == {found.weights_hash}
    torch.save(files(state)["teacher"], path)
    assert build("timm:resnet18", path).backbone.weights_note == "1 not used: head.mlp.0.bias"


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
    found, _ = fitting(cls.network(cls), hub)
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


def test_a_checkpoint_knows_its_model(tmp_path: Path) -> None:
    """Its twin by itself, a published file by the run folder that it lies in; alone, by its layers or not at all."""
    tiny.make_pfpascal(tmp_path, pairs=4)
    options = f"--benchmark pfpascal --datapath . {TINY} --backbone-weights random"
    model = "--backbone timm:resnet18 --backbone-layers 1,4 --backbone-side 96 --width 8 --voting none"
    succeed(tmp_path, f"train.py {options} {model} --niter 1 --logpath run")
    folder = tmp_path / "logs" / "run"
    shutil.copy(folder / "best_model.safetensors", tmp_path / "twin.safetensors")
    shutil.copy(folder / "best_model.pt", tmp_path / "bare.pt")
    torch.save(scrambled(torchvision.models.resnet18().state_dict()), tmp_path / "other.pth")
    for checkpoint in ("logs/run/best_model.pt", "twin.safetensors"):
        test = f"test.py {options} --load {checkpoint}"
        succeed(tmp_path, f"{test} --logpath tested-{Path(checkpoint).stem}")
        refused(tmp_path, f"{test} --backbone resnet50", "--backbone", "timm:resnet18", checkpoint)
        refused(tmp_path, f"{test} --backbone-layers 1,5", "--backbone-layers 1,5", "1,4")
        refused(tmp_path, f"{test} --backbone-side 128", "--backbone-side 128", "96")
    tested = [json.loads(path.read_text())["options"] for path in tmp_path.glob("logs/tested-*/results.json")]
    expected = {"backbone": "timm:resnet18", "backbone_layers": "1,4", "backbone_side": "96", "width": "8"}
    assert [{key: options[key] for key in expected} for options in tested] == [expected] * 2
    assert all("voting none" in str(options) or options.get("voting") == "none" for options in tested)
    refused(tmp_path, f"{test} --backbone-weights other.pth", "hash", "--backbone-weights")
    refused(tmp_path, f"test.py {options} --load bare.pt", "bare.pt", "--backbone")


def test_a_checkpoint_of_another_backbone_is_refused_naming_both(tmp_path: Path) -> None:
    torch.save(draw_learner("resnet50"), tmp_path / "published.pt")
    arguments = f"test.py --benchmark synthetic {TINY} --load published.pt --backbone efficientnet_lite0"
    refused(tmp_path, arguments, "resnet50", "efficientnet_lite0")
    torch.save(draw_learner("efficientnet_lite0"), tmp_path / "own.pt")
    assert (
        Matcher.load(tmp_path / "own.pt", img_side=64, device="cpu").model.backbone.name
        == "efficientnet_lite0"
    )
