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
from dhpf.data.warp import Points, Similarity, as_reals

Mask = NDArray[np.bool_]

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
SALIENT = 80  # percentile of a photograph's corner response that counts as 1, the least of a key-point


@lru_cache(maxsize=32)
def photograph(name: str, shorter: int = 256) -> Tensor:
    """A photograph [4, H, W] with its shorter side as given: red, green, blue in [0, 1]; corner response (SALIENT)."""
    with opened_image(PHOTOGRAPHS / name) as file:
        image = to_rgb(file)
    ratio = shorter / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.LANCZOS)
    colours = np.asarray(image, dtype=np.float32) / 255
    response = corner_shi_tomasi(colours.mean(-1), sigma=2)
    response = (response / np.percentile(response, SALIENT)).astype(np.float32)
    return torch.from_numpy(np.concatenate((colours, response[..., None]), -1)).permute(2, 0, 1)


def draw_crop(rng: np.random.Generator, photo: Tensor, smallest: float, largest: float) -> Similarity:
    """A random square in a photograph, half a side of smallest to largest pixels; ±1 ±i are its corners."""
    half, (height, width) = rng.uniform(smallest, largest), photo.shape[1:]
    return Similarity(half, complex(rng.uniform(half, width - half), rng.uniform(half, height - half)))


def sample(photo: Tensor, points: Points) -> Tensor:
    """photo [C, H, W] at points [h, w], bilinear, mirrored beyond its edges: [C, h, w]."""
    last = np.array((photo.shape[2] - 1, photo.shape[1] - 1))
    grid = torch.from_numpy((as_reals(points) * (2 / last) - 1).astype(np.float32))
    return grid_sample(photo[None], grid[None], padding_mode="reflection", align_corners=True)[0]


def as_image(values: Tensor) -> Image.Image:
    """[3, h, w] in [0, 1] as an 8-bit image."""
    return Image.fromarray((values * 255).round().byte().permute(1, 2, 0).numpy())


def corners(response: Tensor, seen: Mask, gap: int) -> Points:
    """The salient corners [n] at seen pixels, more than `gap` pixels apart, the strongest first."""
    y, x = peak_local_max(response.numpy(), min_distance=gap, threshold_abs=1).T
    return (x + 1j * y)[seen[y, x]]


def holds(mask: Mask, points: Points) -> Mask:
    """Whether points [n] are at set pixels of a mask [h, w], False outside: bool [n]."""
    reals = as_reals(points)
    framed: Mask = np.all((reals >= 0) & (reals <= (mask.shape[1] - 1, mask.shape[0] - 1)), axis=-1)
    x, y = (np.rint(reals).astype(int) * framed[:, None]).T
    return framed & mask[y, x]
