"""Key-point transfer (docs/method.md, section 6): from match scores to predicted points. Frame: 4S×4S pixels."""

import torch
from torch import Tensor

from dhpf.model.grid import STRIDE, cell_centres

EPS = 1e-30  # what a maximum of 0 becomes
NEAR_BEST = 0.1  # sides of the frame: how far from the best cell a score counts for it in a confidence


def mutual_nn_filter(scores: Tensor, column_max: Tensor) -> Tensor:
    """Match scores of some source cells after the mutual nearest-neighbour filter.

    Args:
        scores: B×n×N match scores of the source cells with all target cells.
        column_max: B×N maxima over all source cells.
    Returns:
        B×n×N.
    """
    row_max = scores.amax(2, keepdim=True)
    row_max, column_max = (torch.where(m == 0, EPS, m) for m in (row_max, column_max))
    return (scores / row_max).mul_(scores).mul_(scores / column_max[:, None])


def confident_targets(scores: Tensor, column_max: Tensor) -> tuple[Tensor, Tensor]:
    """Best target cell of some source cells and how sure it is, both B×n; arguments as in `mutual_nn_filter`."""
    return peaks(mutual_nn_filter(scores, column_max))


def peaks(filtered: Tensor) -> tuple[Tensor, Tensor]:
    """Best target cell of each row of filtered scores B×n×N and how sure it is, both B×n.

    The confidence, in 0..1, is the share of the row's filtered scores that lies within a tenth of the side of the
    best cell: a row with one peak has 1, a row with two equal peaks far apart 0.5.
    """
    best, side = filtered.argmax(2), round(filtered.shape[2] ** 0.5)
    radius = NEAR_BEST * side
    axis = torch.arange(-int(radius), int(radius) + 1, device=best.device)
    y, x = (best // side)[..., None, None] + axis[:, None], (best % side)[..., None, None] + axis
    near = axis[:, None].square() + axis.square() <= radius**2
    near = near & (y >= 0) & (y < side) & (x >= 0) & (x < side)
    scores = filtered.gather(2, torch.where(near, y * side + x, 0).flatten(2))
    share = (scores * near.flatten(2)).sum(2) / filtered.sum(2).clamp(min=EPS)
    return best, share.clamp(max=1)


def transfer_keypoints(points: Tensor, cells: Tensor, covers: Tensor, targets: Tensor, side: int) -> Tensor:
    """Points moved by the mean offset of the cells that cover them; NaN where none does.

    Args:
        points: B×2×P.
        cells, covers: of `covering_cells`.
        targets: B×P×9×2, target position (x, y) of each of `cells`, in cells.
        side: S.
    Returns:
        B×2×P.
    """
    centres = cell_centres(points, side)
    offset = STRIDE * targets.movedim(3, 0) - centres[:, cells]  # 2×B×P×9
    return points + ((offset * covers).sum(3) / covers.sum(2)).transpose(0, 1)
