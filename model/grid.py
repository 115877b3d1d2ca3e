"""The correlation grid: S×S cells, S = side of the frame / 4, and how maps of other sides lie on it.

Cell (x, y) has the number y·S + x, its centre at (4x, 4y) pixels of the frame, and around it a receptive field of side
10.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dhpf.common.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

STRIDE = 4  # pixels between neighbouring cells
REACH = 5  # half the side of a cell's receptive field, pixels
SMALLEST = 64  # side of the frame, pixels


def check_frame(height: int, width: int) -> None:
    """Raises: UserError: no frame of these pixels can be matched."""
    if height != width or width % STRIDE or width < SMALLEST:
        raise UserError(
            f"a frame of {width}×{height} pixels: it must be a square whose side is a multiple of {STRIDE} and at "
            f"least {SMALLEST}: choose another --img-side"
        )


def constant(function: Callable[P, T]) -> Callable[P, T]:
    """Compute a function of hashable things, and last of a tensor whose device and type its result has, once for each.

    The result is not to be written to.
    """

    @lru_cache(256)
    def once(device: torch.device, dtype: torch.dtype, *arguments: Any) -> T:
        return function(*arguments, torch.empty(0, device=device, dtype=dtype))  # type: ignore[arg-type, call-arg]

    @wraps(function)
    def known(*arguments: P.args, **names: P.kwargs) -> T:
        *others, like = arguments
        if torch.compiler.is_compiling():
            return function(*arguments, **names)
        return once(like.device, like.dtype, *others)  # type: ignore[attr-defined]

    return known


def use_batched_kernels(like: Tensor) -> bool:
    """Whether the device computes pairs and layers together, rather than one by one.

    A processor gains from what lies in its cache and from leaving out channels that a pair does not use. A GPU, or a
    compiled program, gains from few calls and none that waits for a value.
    """
    return like.device.type != "cpu" or torch.compiler.is_compiling()


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """`torch.cat` that copies nothing where there is one tensor."""
    return torch.cat(list(tensors), dim) if len(tensors) > 1 else tensors[0]


@constant
def interpolation(size: int, side: int, like: Tensor) -> Tensor:
    """side×size matrix of linear interpolation with align_corners=True along one axis."""
    eye = torch.eye(size, device=like.device, dtype=like.dtype)
    return F.interpolate(eye[None], size=side, mode="linear", align_corners=True)[0].T


@constant
def pairs(B: int, like: Tensor) -> Tensor:
    """The numbers of B pairs, B×1."""
    return torch.arange(B, device=like.device)[:, None]


@constant
def linear_taps(size: int, side: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """For each of `side` places along an axis its two of `size` native ones and their weights, each side×2."""
    position = torch.arange(side, device=like.device, dtype=like.dtype) * ((size - 1) / (side - 1))
    low = position.floor().clamp(max=max(size - 2, 0))
    index = torch.stack([low, (low + 1).clamp(max=size - 1)], -1).long()
    return index, torch.stack([1 - (position - low), position - low], -1)


@constant
def bilinear_taps(size: int, side: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """For every cell of the side×side grid its four cells of the size×size grid and their weights, each side²×4."""
    index, weight = linear_taps(size, side, like)  # the same for rows and columns
    taps = index[:, None, :, None] * size + index[None, :, None, :]
    return taps.reshape(-1, 4), (weight[:, None, :, None] * weight[None, :, None, :]).reshape(-1, 4)


@constant
def cell_centres(side: int, like: Tensor) -> Tensor:
    """The centres (x, y) of all cells, pixels, 2×side²."""
    cell = torch.arange(side * side, device=like.device)
    return STRIDE * torch.stack([cell % side, cell // side]).to(like.dtype)


def nearest_cells(points: Tensor, side: int) -> Tensor:
    """Grid cells y·S + x whose centres (4x, 4y) are nearest to the points, B×2×P -> B×P; the first of equals."""
    x, y = (points / STRIDE - 0.5).ceil().clamp(0, side - 1).long().unbind(1)
    return y * side + x


def covering_cells(points: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The source cells whose receptive field contains a point, borders included.

    Args:
        points: B×2×P (x, y).
        side: S.
    Returns:
        cells: B×P×9 candidate indices y·S + x, and a B×P×9 mask of those that do contain the point.
    """
    around = torch.arange(-1, 2, device=points.device)
    cell = (points / STRIDE).round().clamp(-2, side + 1)[..., None] + around  # B×2×P×3
    # Compared with the box's corners, which are exact numbers; a difference may round onto the border.
    low, high = STRIDE * cell - REACH, STRIDE * cell + REACH
    inside = (cell >= 0) & (cell < side) & (points[..., None] >= low) & (points[..., None] <= high)
    x, y = cell.clamp(0, side - 1).long().unbind(1)
    cells = y[..., :, None] * side + x[..., None, :]
    covers = inside[:, 1, :, :, None] & inside[:, 0, :, None, :]
    return cells.flatten(2), covers.flatten(2)
