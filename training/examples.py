"""Images of a training for TensorBoard, drawn within milliseconds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from torch import Tensor

from dhpf.data.images import IMAGENET_MEAN, IMAGENET_STD

CORRECT, INCORRECT = (86, 180, 233), (230, 159, 0)
CELL = 12  # pixels of a layer and of an epoch
LEFT, TOP = 36, 28  # pixels of the axes' labels


def example(batch: Mapping[str, Any], i: int, predicted: Tensor, alpha: float) -> Image.Image:
    """Pair i of a batch in its frame, source and target side by side.

    Lines lead from source key-points to `predicted`, 2×P; blue is correct. Circles are the target's key-points.
    """
    n, limit = int(batch["n_pts"][i]), alpha * float(batch["pckthres"][i])
    side = batch["src_img"].shape[-1]
    image = Image.new("RGB", (2 * side, side))
    for left, end in ((0, "src"), (side, "trg")):
        pixels = batch[f"{end}_img"][i].cpu().numpy().transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
        image.paste(Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8)), (left, 0))
    draw, offset = ImageDraw.Draw(image), np.array([side, 0])
    points = batch["src_kps"][i], predicted, batch["trg_kps"][i]
    for source, found, target in zip(*(p.cpu().numpy()[:, :n].T for p in points), strict=True):
        if np.isfinite(found).all():
            colour = CORRECT if np.linalg.norm(found - target) <= limit else INCORRECT
            draw.line([*source, *(found + offset)], colour)
        x, y = target + offset
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), outline="white")
    return image


def selection_map(history: Path) -> Image.Image:
    """How often each layer was selected: a row for each epoch, a column for each layer, black never, white always."""
    rates = pd.read_csv(history).filter(regex="^selection/").to_numpy()
    rates = (rates * 255).round().clip(0, 255).astype(np.uint8)
    rows, columns = rates.shape
    image = Image.new("RGB", (max(LEFT + CELL * columns + 1, 125), TOP + CELL * rows + 1), "white")
    image.paste(Image.fromarray(rates.repeat(CELL, 0).repeat(CELL, 1)), (LEFT, TOP))
    draw = ImageDraw.Draw(image)
    draw.rectangle((LEFT - 1, TOP - 1, LEFT + CELL * columns, TOP + CELL * rows), outline="gray")
    draw.text((1, 1), "epoch (down), layer (right)", "black")
    for layer in range(0, columns, 4):
        draw.text((LEFT + CELL * layer + 1, TOP - 13), str(layer), "black")
    for epoch in range(0, rows, 1 + rows // 40):
        draw.text((2, TOP + CELL * epoch), str(epoch + 1), "black")
    return image
