"""The photographs that scikit-image ships: windows of them, values and corners at points (see `data.warp`)."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import skimage
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import corner_shi_tomasi, peak_local_max
from torch import Tensor
from torch.nn.functional import grid_sample

from dhpf.data.images import opened_image, to_rgb
from dhpf.data.warp import Array, Similarity

Mask = NDArray[np.bool_]

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
SALIENT_PERCENTILE = 80  # of a photograph's corner response: it counts as 1, the least of a key-point


@lru_cache(maxsize=32)
def photograph(name: str, shorter: int = 256) -> Tensor:
    """A photograph [4, H, W] with its shorter side as given: red, green, blue in [0, 1]; corner response."""
    with opened_image(PHOTOGRAPHS / name) as file:
        image = to_rgb(file)
    ratio = shorter / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.LANCZOS)
    colours = np.asarray(image, dtype=np.float32) / 255
    response = corner_shi_tomasi(colours.mean(-1), sigma=2)
    response = (response / np.percentile(response, SALIENT_PERCENTILE)).astype(np.float32)
    return torch.from_numpy(np.concatenate((colours, response[..., None]), -1)).permute(2, 0, 1)


def draw_crop(rng: np.random.Generator, photo: Tensor, smallest: float, largest: float) -> Similarity:
    """A random square in a photograph, half a side of smallest to largest pixels; (±1, ±1) are its corners."""
    half, (height, width) = rng.uniform(smallest, largest), photo.shape[1:]
    return Similarity(half, rng.uniform(half, (width - half, height - half)))


def sample(photo: Tensor, points: Array) -> Tensor:
    """photo [C, H, W] at points [2, h, w], bilinear, mirrored beyond its edges: [C, h, w]."""
    height, width = photo.shape[1:]
    grid = np.stack((points[0] * (2 / (width - 1)) - 1, points[1] * (2 / (height - 1)) - 1), -1)
    grid = torch.from_numpy(grid.astype(np.float32))
    return grid_sample(photo[None], grid[None], padding_mode="reflection", align_corners=True)[0]


def find_corners(response: Tensor, mask: Mask, gap: int) -> Array:
    """The salient corners [2, n] at set pixels of a mask, more than `gap` pixels apart, the strongest first."""
    y, x = peak_local_max(response.numpy(), min_distance=gap, threshold_abs=1).T
    return np.stack((x, y))[:, mask[y, x]].astype(np.float64)


def in_mask(mask: Mask, points: Array) -> Mask:
    """Whether points [2, n] are at set pixels of a mask [h, w], False outside: bool [n]."""
    (x, y), (height, width) = points, mask.shape
    framed: Mask = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    column, row = (np.rint(points) * framed).astype(int)
    return framed & mask[row, column]
