"""The matching: backbone -> gating -> correlation -> voting -> key-point transfer. Tensors only.

To add a backbone or a voting: a class or a function (see `model.backbone`, `model.voting`), entered below.
"""

from typing import TYPE_CHECKING

from dhpf.common.registry import Registry

if TYPE_CHECKING:
    from dhpf.model.backbone import FrozenBackbone
    from dhpf.model.voting import Voting

BACKBONES: "Registry[type[FrozenBackbone]]" = Registry(
    "backbone",
    {
        "resnet50": "dhpf.model.backbone:ResNet50",
        "resnet101": "dhpf.model.backbone:ResNet101",
        "efficientnet_lite0": "dhpf.model.timm_backbone:EfficientNetLite0",
    },
    families={"timm": "dhpf.model.timm_backbone:named"},
)
VOTINGS: "Registry[Voting]" = Registry(
    "voting", {"hough": "dhpf.model.hough:hough_voting", "none": "dhpf.model.voting:no_voting"}
)


def file_name(backbone: str) -> str:
    """A backbone's name as part of a file's: without the colon."""
    return backbone.replace(":", "-")
