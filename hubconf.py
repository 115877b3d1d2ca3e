"""`torch.hub.load(PATH, "dhpf", backbone=..., source="local")` gives a `dhpf.Matcher`, from any folder."""

from pathlib import Path
from typing import Any

dependencies = [
    "torch",
    "torchvision",
    "timm",
    "safetensors",
    "accelerate",
    "scipy",
    "pandas",
    "skimage",
    "PIL",
]


def dhpf(load: str | Path | None = None, *, backbone: str | None = None, **options: Any) -> Any:
    """A matcher of images of any size.

    Args:
        load: file of a checkpoint, a run folder, or the name of a released one; without it the backbone's raw
            features are matched.
        backbone: of the checkpoint, if it does not say; or the one whose features are matched.
        options: what else `dhpf.Matcher.load` takes, such as raw, layers, img_side, device.
    Raises:
        UserError: unusable checkpoint or weights, no such device.
    """
    from dhpf.matching.matcher import Matcher

    return Matcher.load(load, backbone=backbone, **options)
