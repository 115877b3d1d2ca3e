"""Training losses (docs/method.md, section 7, paper section 3.4)."""

from math import isqrt

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dhpf.model.grid import interpolation
from dhpf.model.transfer import EPS
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
    return (weights * -torch.log(p + EPS)).sum(1).mean()


def keypoint_weights(distance: Tensor, threshold: Tensor, n_pts: Tensor) -> Tensor:
    """Weights of key-points in the strong loss.

    Args:
        distance: B×P pixels between prediction and truth, NaN where there is no prediction.
        threshold: B, the distance up to which a key-point is correct, hence easy: alpha × the benchmark's.
        n_pts: B, the number of key-points; those behind are padding.
    """
    ratio = distance / threshold[:, None]
    weights = torch.where(ratio <= 1, ratio.square(), 1)
    present = torch.arange(distance.shape[1], device=distance.device) < n_pts[:, None]
    return weights * present / n_pts.clamp(min=1)[:, None]


def entropy(scores: Tensor) -> Tensor:
    """Mean entropy, in bits, of every source cell's distribution over the target grid: B×N×N match scores -> B.

    The mutual nearest-neighbour filter's factor 1 / row maximum cancels in the normalisation of a row.
    """
    S = isqrt(scores.shape[2])
    reduction = interpolation(scores, S, ENTROPY_SIDE)
    column_max = scores.max(1, keepdim=True).values
    row_max = scores.detach().amax(2, keepdim=True)
    column_max = column_max + EPS * (column_max == 0)
    row_max = row_max + EPS * (row_max == 0)
    filtered = scores * (scores / row_max) * (scores / column_max)
    p = (reduction @ filtered.unflatten(2, (S, S)) @ reduction.T).flatten(2)
    total = p.sum(2, keepdim=True)
    p = p / torch.where(total == 0, 1, total)
    p = torch.where(p == 0, EPS, p)
    return -(p * torch.log2(p)).sum(2).mean(1)


def entropies(scores: Scores) -> Tensor:
    """Entropy of each pair's match scores, the mean of both directions, B: in one pass where the voting has it."""
    if isinstance(scores.rows, OffsetScores):
        return scores.rows.entropies()
    B, N = scores.column_max.shape
    all_cells = torch.arange(N, device=scores.column_max.device)[None]

    def mean_entropy(rows: ScoreRows) -> Tensor:
        matrix = rows(all_cells)
        return (entropy(matrix) + entropy(matrix.mT)) / 2

    # A pair's matrix is computed again for its gradient, rather than kept.
    pairs = [scores.rows[b : b + 1] for b in range(B)]
    return torch.cat([checkpoint(mean_entropy, rows, use_reentrant=False) for rows in pairs])


def selection_loss(selection: Tensor, rate: float) -> Tensor:
    """Squared distance of every layer's mean selection over the batch (B×K) from the rate μ, summed."""
    return (selection.mean(0) - rate).square().sum()
