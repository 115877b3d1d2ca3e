"""Pictures of a running training: plain and quick, for TensorBoard."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from dhpf.data.images import IMAGENET_MEAN, IMAGENET_STD

CORRECT, INCORRECT = (86, 180, 233), (230, 159, 0)
CELL = 12  # pixels of a layer in a picture


def example(batch: Mapping[str, Any], i: int, predicted: Tensor, alpha: float) -> Image.Image:
    """Pair i of a batch in its frame, source and target side by side, with its predictions [2, P], correct or not."""
    n, limit = int(batch["n_pts"][i]), alpha * float(batch["pckthres"][i])
    side = batch["src_img"].shape[-1]
    picture = Image.new("RGB", (2 * side, side))
    for left, end in ((0, "src"), (side, "trg")):
        pixels = batch[f"{end}_img"][i].cpu().numpy().transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
        picture.paste(Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8)), (left, 0))
    draw, right = ImageDraw.Draw(picture), np.array([side, 0])
    source, found, target = (
        x.cpu().numpy()[:, :n].T for x in (batch["src_kps"][i], predicted, batch["trg_kps"][i])
    )
    for start, end, true in zip(source, found, target, strict=True):
        if np.isfinite(end).all():
            colour = CORRECT if np.linalg.norm(end - true) <= limit else INCORRECT
            draw.line([*start, *(end + right)], colour)
        x, y = true + right
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), outline="white")
    return picture


def selected(history: Path) -> Image.Image:
    """How often each layer was selected, in 0..1: a row for each epoch, a column for each layer, white is always."""
    with history.open(newline="") as file:
        rows = [
            [float(v) for k, v in row.items() if k.startswith("selection/")] for row in csv.DictReader(file)
        ]
    values = np.clip(np.array(rows) * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(values.repeat(CELL, 0).repeat(CELL, 1)).convert("RGB")
