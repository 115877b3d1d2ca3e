"""Training losses (docs/method.md, section 7, paper section 3.4)."""

from math import isqrt

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dhpf.model.grid import interpolation
from dhpf.model.voting import OffsetScores, ScoreRows, Scores
from dhpf.model.weak_loss import ENTROPY_SIDE


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


def entropy(scores: Tensor) -> Tensor:
    """Mean entropy, in bits, of every source cell's distribution over the target grid: B×N×N match scores -> B.

    The mutual nearest-neighbour filter's factor 1 / row maximum cancels in the normalisation of a row.
    """
    S = isqrt(scores.shape[2])
    reduce = interpolation(S, ENTROPY_SIDE, scores)
    column_max = scores.max(1, keepdim=True).values
    row_max = scores.detach().amax(2, keepdim=True)
    column_max = column_max + 1e-30 * (column_max == 0)
    row_max = row_max + 1e-30 * (row_max == 0)
    mutual = scores * (scores / row_max) * (scores / column_max)
    p = (reduce @ mutual.unflatten(2, (S, S)) @ reduce.T).flatten(2)
    total = p.sum(2, keepdim=True)
    p = p / torch.where(total == 0, 1, total)
    p = torch.where(p == 0, 1e-30, p)
    return -(p * torch.log2(p)).sum(2).mean(1)


def entropies(scores: Scores) -> Tensor:
    """Entropy of each pair's match scores, the mean of both directions, B: in one pass where the voting has it."""
    if isinstance(scores.rows, OffsetScores):
        return scores.rows.entropies()
    B, N = scores.column_max.shape
    every = torch.arange(N, device=scores.column_max.device)[None]
    pairs = [scores.rows[b : b + 1] for b in range(B)]
    return torch.cat([checkpoint(both_ways, rows, every, use_reentrant=False) for rows in pairs])


def both_ways(rows: ScoreRows, cells: Tensor) -> Tensor:
    """`entropy` of the rows and of the columns, the mean."""
    matrix = rows(cells)
    return (entropy(matrix) + entropy(matrix.mT)) / 2


def selection_loss(selection: Tensor, rate: float) -> Tensor:
    """Squared distance of every layer's mean selection over the batch (B×K) from the rate μ, summed."""
    return (selection.mean(0) - rate).square().sum()
