"""The matching: backbone -> gating -> correlation -> voting -> key-point transfer. Tensors only.

Read `reference.py` first: the whole method on one page, slow. These files are the method as it runs:

    backbone, timm_backbone    maps of the hyperpixel layers            method, section 2
    gating                     gates and transformations                section 3
    transfer                   key-points                               section 6
    decoder                    other ways from scores to key-points      docs/measures.md
    losses                     the losses                               section 7
    dhpf                       all of it composed

and these are its fast path, which gives the numbers of the reference without its N×N matrices; each opens with why:

    grid, features, correlation    interpolation, lengths, appearance   section 4
    voting, hough                  match scores                         section 5
    weak_loss                      entropies with their gradient        section 7
    layer_subsets, compiled        many subsets of layers; CUDA graphs

`ablation` is what a model may do otherwise. To add a backbone, a voting or a decoder, write a class or a function (see
`backbone`, `voting`, `decoder`) and enter it below.
"""

from typing import TYPE_CHECKING

from dhpf.common.registry import Registry

if TYPE_CHECKING:
    from dhpf.model.backbone import FrozenBackbone
    from dhpf.model.decoder import Decoder
    from dhpf.model.voting import Voting

BACKBONES: "Registry[type[FrozenBackbone]]" = Registry(
    "backbone",
    {
        "resnet50": "dhpf.model.backbone:ResNet50",
        "resnet101": "dhpf.model.backbone:ResNet101",
        "efficientnet_lite0": "dhpf.model.timm_backbone:EfficientNetLite0",
    },
    families={
        "timm": "dhpf.model.timm_backbone:named",
        "files": "dhpf.weights.feature_files:named",
        "files-pad": "dhpf.weights.feature_files:named",
    },
)
VOTINGS: "Registry[Voting]" = Registry(
    "voting", {"hough": "dhpf.model.hough:hough_voting", "none": "dhpf.model.voting:no_voting"}
)
DECODERS: "Registry[Decoder]" = Registry(
    "decoder",
    {
        "cells": "dhpf.model.decoder:cells",
        "window-soft-argmax": "dhpf.model.decoder:window_soft_argmax",
        "kernel-soft-argmax": "dhpf.model.decoder:kernel_soft_argmax",
    },
    families=dict.fromkeys(
        ("window-soft-argmax", "kernel-soft-argmax"), "dhpf.model.decoder:with_parameters"
    ),
)
EIGHTH = "eighth"  # of a layer's channels: what its learned transformation leaves


def file_name(backbone: str) -> str:
    """A backbone's name as part of a file's: without the colon."""
    return backbone.replace(":", "-")
