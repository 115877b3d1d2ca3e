"""The matching: backbone -> gating -> correlation -> voting -> key-point transfer. Tensors only.

To add a backbone or a voting: a class or a function (see `model.backbone`, `model.voting`), entered below.
"""

from typing import TYPE_CHECKING

from dhpf.common.registry import Registry

if TYPE_CHECKING:
    from dhpf.model.backbone import Frozen
    from dhpf.model.voting import Voting

BACKBONES: "Registry[type[Frozen]]" = Registry(
    "backbone",
    {
        "resnet50": "dhpf.model.backbone:ResNet50",
        "resnet101": "dhpf.model.backbone:ResNet101",
        "efficientnet_lite0": "dhpf.model.backbone:EfficientNetLite0",
    },
)
VOTINGS: "Registry[Voting]" = Registry(
    "voting", {"hough": "dhpf.model.hough:hough_voting", "none": "dhpf.model.voting:no_voting"}
)
