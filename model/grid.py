"""The correlation grid: S×S cells, S = side of the frame / 4, and how maps of other sides are interpolated to it.

Cell (x, y) has the number y·S + x and its centre at (4x, 4y) pixels of the frame. Its receptive field is a box of side
10 around the centre.

Fast path of the interpolation U (method, section 4; `reference.upsample`): a grid cell is a weighted sum of four cells
of a map, its "taps". On a grid of 4×4 cells, a map of 2×2 cells A, B, C, D (numbers 0 to 3) lies so:

    A  1  2  B      Cell 1 lies a third of the way from A to B. It is 2/3 A + 1/3 B + 0 C + 0 D.
    4  5  6  7      Cell 6 is a third down and two thirds to the right: (1/3·2/3) A + (2/3·2/3) B + (1/3·1/3) C + ...
    8  9 10 11
    C 13 14  D

>>> index, weight = bilinear_taps(torch.zeros(0), 2, 4)
>>> index[1], weight[1]
(tensor([0, 1, 2, 3]), tensor([0.6667, 0.3333, 0.0000, 0.0000]))
>>> (9 * weight[6]).round()
tensor([2., 4., 1., 2.])
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dhpf.common.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

STRIDE = 4  # pixels between neighbouring cells
HALF_BOX = 5  # pixels, half the side of a cell's receptive field
MIN_FRAME = 64  # pixels, the smallest side of a frame


def check_frame(height: int, width: int) -> None:
    """Raises: UserError: no frame of these pixels can be matched."""
    if height != width or width % STRIDE or width < MIN_FRAME:
        raise UserError(
            f"a frame of {width}×{height} pixels: it must be a square whose side is a multiple of {STRIDE} and at "
            f"least {MIN_FRAME}"
        )


class Kind(NamedTuple):
    """Where a tensor lies, and the type of its numbers."""

    device: torch.device
    dtype: torch.dtype


def constant(function: Callable[Concatenate[Kind, P], T]) -> Callable[Concatenate[Tensor | Kind, P], T]:
    """Compute a function of a kind of tensor and hashable arguments once for each of them.

    A tensor may be given in the place of its kind. The result is not to be written to.
    """
    cached = lru_cache(256)(function)

    @wraps(function)
    def call(like: Tensor | Kind, *args: P.args, **kwargs: P.kwargs) -> T:
        kind = Kind(like.device, like.dtype)
        if torch.compiler.is_compiling():
            return function(kind, *args, **kwargs)
        return cached(kind, *args, **kwargs)  # type: ignore[arg-type]

    return call


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
def interpolation(like: Kind, size: int, side: int) -> Tensor:
    """side×size matrix of linear interpolation with align_corners=True along one axis: U is this along both."""
    eye = torch.eye(size, device=like.device, dtype=like.dtype)
    return F.interpolate(eye[None], size=side, mode="linear", align_corners=True)[0].T


@constant
def pair_numbers(like: Kind, B: int) -> Tensor:
    """The numbers of B pairs, B×1."""
    return torch.arange(B, device=like.device)[:, None]


@constant
def linear_taps(like: Kind, size: int, side: int) -> tuple[Tensor, Tensor]:
    """For each of `side` cells along an axis its two of `size` native ones and their weights, both side×2."""
    position = torch.arange(side, device=like.device, dtype=like.dtype) * ((size - 1) / (side - 1))
    low = position.floor().clamp(max=max(size - 2, 0))
    index = torch.stack([low, (low + 1).clamp(max=size - 1)], -1).long()
    return index, torch.stack([1 - (position - low), position - low], -1)


@constant
def bilinear_taps(like: Kind, size: int, side: int) -> tuple[Tensor, Tensor]:
    """For every cell of the side×side grid its four cells of the size×size map and their weights, both side²×4."""
    index, weight = linear_taps(like, size, side)  # the same for rows and columns
    taps = index[:, None, :, None] * size + index[None, :, None, :]
    return taps.reshape(-1, 4), (weight[:, None, :, None] * weight[None, :, None, :]).reshape(-1, 4)


@constant
def cell_centres(like: Kind, side: int) -> Tensor:
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
    low, high = STRIDE * cell - HALF_BOX, STRIDE * cell + HALF_BOX
    inside = (cell >= 0) & (cell < side) & (points[..., None] >= low) & (points[..., None] <= high)
    x, y = cell.clamp(0, side - 1).long().unbind(1)
    cells = y[..., :, None] * side + x[..., None, :]
    covers = inside[:, 1, :, :, None] & inside[:, 0, :, None, :]
    return cells.flatten(2), covers.flatten(2)
