"""Weights of backbones as files have them: with prefixes, named by another library, without a classifier.

How a file names its tensors tells which library wrote it: timm and torchvision (the network's own names), transformers,
efficientnet_pytorch, or one whose names timm itself converts (DINO and others).
"""

import re
import sys
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from dhpf.common.errors import UserError
from dhpf.model.backbone import DERIVED, HEADS, feature_tensors
from dhpf.weights.files import State

PREFIXES = ("module.", "_orig_mod.", "backbone.")  # of parallel, compiled, and self-supervised training
BIASES = ("attn.qkv.bias", "attn.q_bias")  # of queries, keys and values
# What the library transformers calls the parts of its transformers, in files of before and after its fifth version, and
# what DINO's own files, which timm reads, call them; in this order.
TRANSFORMERS = {
    r"^[a-z0-9_]+\.(?=(embeddings|encoder|layers?|layernorm|norm)\.)": "",
    r"^encoder\.": "",
    r"^layers?\.": "blocks.",
    r"^layernorm\.": "norm.",
    r"^classifier\.": "head.",
    r"^embeddings\.position_embeddings": "pos_embed",
    r"^embeddings\.patch_embeddings(\.projection)?": "patch_embed.proj",
    r"^embeddings\.distillation_token": "dist_token",
    r"^embeddings\.": "",
    r"\.attention\.(attention\.)?([qkv])(uery|ey|alue|_proj)\.": r".attn.\2.",
    r"\.attention\.(output\.dense|o_proj)\.": ".attn.proj.",
    r"\.layernorm_before\.": ".norm1.",
    r"\.layernorm_after\.": ".norm2.",
    r"\.(intermediate\.dense|mlp\.up_proj)\.": ".mlp.fc1.",
    r"\.(output\.dense|mlp\.down_proj)\.": ".mlp.fc2.",
    r"\.mlp\.weights_in\.": ".mlp.w12.",
    r"\.mlp\.weights_out\.": ".mlp.w3.",
    r"\.layer_scale([12])\.lambda1$": r".ls\1.gamma",
}


class MisfitError(UserError):
    """Weights of another network; the message completes "the file ..."."""


def fitting(net: nn.Module, state: State) -> tuple[State, str]:
    """The tensors of a file under the network's own names, complete but for its head, and a line of what was not used.

    Raises:
        MisfitError: it is not that network's.
    """
    own = net.state_dict()
    state, others = unwrapped(state, own)
    if any(name.endswith("embeddings.cls_token") for name in state):
        state = from_transformers(state)
    elif "_conv_stem.weight" in state:
        state = from_efficientnet_pytorch(state, own)
    with_biases = any(name.endswith(BIASES) and tensor.any() for name, tensor in state.items())
    if with_biases and "storage_tokens" in state and not any(name.endswith(BIASES) for name in own):
        raise MisfitError(
            "has biases of queries and values, as timm's networks have whose names end in _qkvb"
        )
    found = state if fits(own, state) else converted_by_timm(net, state)
    names = feature_tensors(own)
    missing = [name for name in names if name not in found]
    if missing:
        raise MisfitError(f"lacks {len(missing)} of {len(names)} tensors, such as '{missing[0]}'")
    for name in names:
        if own[name].shape != found[name].shape:
            shapes = " where the network has ".join(str(list(x[name].shape)) for x in (found, own))
            raise MisfitError(f"has '{name}' of shape {shapes}")
    parts = {name.partition(".")[0] for name in names}
    unused = [name for name in found if name not in own and not name.endswith(DERIVED)]
    larger = [name for name in unused if name.partition(".")[0] in parts and not name.startswith(HEADS)]
    if larger:
        raise MisfitError(f"is of a larger network: '{larger[0]}' has no place in it")
    unused += others
    unused += [name for name in found if name in own and own[name].shape != found[name].shape]
    absent = [name for name in own if name.startswith(HEADS) and name not in found]
    note = "; ".join(
        f"{len(some)} {what}: {', '.join(some[:3])}{', ...' if len(some) > 3 else ''}"
        for some, what in ((unused, "not used"), (absent, "missing"))
        if some
    )
    fitted = {name: found[name] for name in own if name in found and own[name].shape == found[name].shape}
    return fitted, note


def from_transformers(state: State) -> State:
    """The tensors of a vision transformer of the library transformers under the names of DINO's own files."""
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, ours in TRANSFORMERS.items():
            name = re.sub(pattern, ours, name)
        named[name] = tensor
    if "pos_embed" not in named and "register_tokens" in named:  # DINOv3
        named["storage_tokens"] = named.pop("register_tokens")
    for name in [name for name in named if name.endswith(".attn.q.weight")]:
        block = name.removesuffix("q.weight")
        for kind in ("weight", "bias"):
            parts = [named.pop(f"{block}{part}.{kind}", None) for part in "qkv"]
            if (like := next((part for part in parts if part is not None), None)) is not None:
                filled = [torch.zeros_like(like) if part is None else part for part in parts]
                named[f"{block}qkv.{kind}"] = torch.cat(filled)
    return named


# What efficientnet_pytorch calls the parts of a block without and with an expansion, and what timm calls them.
EFFICIENTNET_BLOCKS = (
    {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"},
    {
        "expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2", "project_conv": "conv_pwl",
        "bn2": "bn3",
    },
)  # fmt: skip
EFFICIENTNET_ENDS = {
    "conv_stem": "conv_stem",
    "bn0": "bn1",
    "conv_head": "conv_head",
    "bn1": "bn2",
    "fc": "classifier",
}


def from_efficientnet_pytorch(state: State, own: State) -> State:
    """The tensors of an EfficientNet of the library efficientnet_pytorch under timm's names."""
    blocks = list(dict.fromkeys(".".join(name.split(".")[:3]) for name in own if name.startswith("blocks.")))
    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        *place, part, kind = name.split(".")
        if place:
            expands = f"{'.'.join(place)}._expand_conv.weight" in state
            number, parts = int(place[-1]), EFFICIENTNET_BLOCKS[expands]
            block = f"{blocks[number]}." if number < len(blocks) else f"blocks.{number}."
        else:
            block, parts = "", EFFICIENTNET_ENDS
        part = part.removeprefix("_")
        named[f"{block}{parts.get(part, part)}.{kind}"] = tensor
    return named


def unwrapped(state: State, own: State) -> tuple[State, list[str]]:
    """A state dict without the prefixes that the network itself does not have, and the names of what had none."""
    others: list[str] = []
    while prefix := next(
        (
            p
            for p in PREFIXES
            if any(n.startswith(p) for n in state) and not any(n.startswith(p) for n in own)
        ),
        None,
    ):
        others += [name for name in state if not name.startswith(prefix)]
        state = {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}
    return state, others


def fits(own: State, state: State) -> bool:
    return all(n in state and state[n].shape == t.shape for n, t in own.items() if not n.startswith(HEADS))


def converted_by_timm(net: nn.Module, state: State) -> State:
    """The tensors as timm reads other libraries' names for such networks, and position embeddings of other sizes."""
    convert: Any = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    patches = (x.get("patch_embed.proj.weight") for x in (net.state_dict(), state))
    other_patches = len({p.shape for p in patches if p is not None and p.dim() == 4}) > 1
    if convert is None or other_patches:  # timm would resample patches
        return state
    try:
        with redirect_stdout(None):
            return convert(dict(state), net)
    except Exception:  # it takes for granted what such a file holds
        return state
