"""Training losses (docs/method.md, section 7, paper section 3.4)."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dhpf.model.grid import interpolation
from dhpf.model.voting import Rows, Scores

ENTROPY_SIDE = 15  # side of the grid that score maps are reduced to before their entropy is taken


def strong_loss(scores: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of the rows of a batch's key-points.

    Args:
        scores: B×P×N match scores of the source key-points' nearest cells.
        targets: B×P, the target key-points' nearest cells.
        weights: B×P, 1 for a hard key-point, less for an easy one, 0 for padding, summed over a pair's
            key-points already divided by their number.
    """
    deviation = scores.detach().std(dim=2, keepdim=True)
    deviation = torch.where(deviation == 0, 1, deviation)
    p = torch.softmax((scores - scores.mean(dim=2, keepdim=True)) / deviation, dim=2)
    p = p.gather(2, targets[:, :, None])[:, :, 0]
    return (weights * -torch.log(p + 1e-30)).sum(1).mean()


def keypoint_weights(distance: Tensor, threshold: Tensor, n_pts: Tensor) -> Tensor:
    """Weights of key-points in the strong loss.

    Args:
        distance: B×P pixels between prediction and truth, NaN where there is no prediction.
        threshold: B, the distance up to which a key-point is correct, hence easy: alpha × the benchmark's.
        n_pts: B, the number of key-points; those behind are padding.
    """
    ratio = distance / threshold[:, None]
    weights = torch.where(ratio <= 1, ratio.square(), 1)
    real = torch.arange(distance.shape[1], device=distance.device) < n_pts[:, None]
    return weights * real / n_pts.clamp(min=1)[:, None]


def entropy(scores: Tensor, reduce: Tensor) -> Tensor:
    """Mean entropy, in bits, of every source cell's distribution over the target grid.

    The mutual nearest-neighbour filter's factor 1 / row maximum cancels in the normalisation of a row.

    Args:
        scores: B×N×T² match scores with the target cells that the reduction reads.
        reduce: R×T bilinear reduction of the target grid's rows, and likewise its columns.
    Returns:
        B.
    """
    column_max = scores.max(1, keepdim=True).values
    row_max = scores.detach().amax(2, keepdim=True)
    column_max = column_max + 1e-30 * (column_max == 0)
    row_max = row_max + 1e-30 * (row_max == 0)
    mutual = scores * (scores / row_max) * (scores / column_max)
    T = reduce.shape[1]
    p = (reduce @ mutual.unflatten(2, (T, T)) @ reduce.T).flatten(2)
    total = p.sum(2, keepdim=True)
    p = p / torch.where(total == 0, 1, total)
    p = torch.where(p == 0, 1e-30, p)
    return -(p * torch.log2(p)).sum(2).mean(1)


def entropies(scores: Scores, side: int) -> Tensor:
    """Entropy of each pair's match scores, the mean of both directions, B.

    Only the target cells that the reduction reads are scored; scores are recomputed in the backward pass.

    Args:
        side: S, of the correlation grid.
    """
    reduce = interpolation(side, ENTROPY_SIDE, scores.column_max)
    axis = (reduce != 0).any(0).nonzero()[:, 0]
    every = torch.arange(side**2, device=axis.device)
    B = len(scores.column_max)
    some = B if scores.column_max.is_cuda else 1  # bounds the memory, fills a GPU

    def direction(rows: Rows) -> Tensor:
        return entropy(rows(every.expand(min(some, B), -1)), reduce[:, axis])

    total = scores.column_max.new_zeros(B)
    for reverse in (False, True):
        rows = scores.rows.towards(axis, reverse)
        each = [checkpoint(direction, rows[p : p + some], use_reentrant=False) for p in range(0, B, some)]
        total = total + torch.cat(each)
    return total / 2


def selection_loss(selection: Tensor, rate: float) -> Tensor:
    """Squared distance of every layer's mean selection over the batch (B×K) from the rate μ, summed."""
    return (selection.mean(0) - rate).square().sum()
