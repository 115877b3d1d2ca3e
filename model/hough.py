"""Regularized Hough matching (method, section 5, paper section 3.3).

A match votes for a bin that depends on its displacement alone, so the N² votes are first summed by displacement
into a (2S-1)×(2S-1) table, and the geometric score is such a table, too.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dhpf.model.correlation import Block, Correlation, CorrelationFactors
from dhpf.model.grid import STRIDE, constant
from dhpf.model.voting import Scores, from_offsets, maxima

KEPT = 2**26  # entries of similarities that are kept; what would take more memory is computed twice


def diagonal_view(memory: Tensor, first: int, top: int, rows: int, height: int) -> Tensor:
    """Entries by cell of memory, newly made, by displacement of rows: B×R×S×(2S-1)×S -> B×rows×S×height×S.

    view[b, i, x, j, u] = memory[b, i, x, dy + S - 1, u], dy from source row first + i to target row top + j.
    """
    *_, R, S, D, _ = memory.shape
    slab = S * D * S
    offset = (top - first + S - 1) * S
    strides = (R * slab, slab - S, D * S, S, 1)
    return memory.as_strided((len(memory), rows, S, height, S), strides, offset)


def diagonal_sums(x: Tensor) -> Tensor:
    """Sums over equal displacement: L×S×M×S -> L×M×(2S-1), out[l, m, d + S - 1] = Σ_i x[l, i, m, i + d]."""
    L, S, M, _ = x.shape
    # Behind S zeros a row, one step down x's second axis plus one to the right is a constant stride.
    slab = S * M * 2 * S
    memory = x.new_zeros(L, slab + S)
    memory[:, :slab].view(L, S, M, 2 * S)[..., S:] = x
    return memory.as_strided((L, S, M, 2 * S - 1), (slab + S, M * 2 * S + 1, 2 * S, 1), 1).sum(1)


def geometric_scores(votes: Tensor) -> Tensor:
    """Smoothed Hough score of every displacement from the votes of every displacement, both B×(2S-1)×(2S-1)."""
    onehot, kernel = _hough_space((votes.shape[-1] + 1) // 2, votes)
    histogram = onehot.T @ votes @ onehot
    smooth = F.conv2d(histogram[:, None], kernel, padding=3)[:, 0]
    return onehot @ smooth @ onehot.T


@constant
def _hough_space(S: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The bin of every offset along an axis, (2S-1)×bins one-hot, and the smoothing kernel, 1×1×7×7."""
    image = STRIDE * S
    cell = math.sqrt((2 * image) ** 2 // 8192)  # the published integer division: sqrt(28) at 240 pixels
    bins = int(2 * image / cell) + 1
    offset = torch.arange(1 - S, S, device=like.device)
    onehot = F.one_hot(((image + STRIDE * offset) / cell).floor().long(), bins).to(like.dtype)
    x = torch.arange(-3, 4, device=like.device, dtype=like.dtype)
    kernel = torch.exp(-x.square() / (2 * (7 / 2 / 2.354) ** 2))
    return onehot, (torch.outer(kernel, kernel) / kernel.sum().square())[None, None]


def hough_voting(correlation: Correlation) -> Scores:
    """Regularized Hough matching as a voting; no gradient goes through the geometric scores."""
    return from_offsets(correlation, [hough_matching(part) for part in correlation.parts])


@torch.no_grad()
def hough_matching(part: CorrelationFactors) -> tuple[Tensor, Tensor, Tensor]:
    """Geometric scores of B pairs by displacement (dy, dx), B×(2S-1)×(2S-1), and what `maxima` gives."""
    B, S = len(part), part.side
    kept: list[Block] = []
    sums: Tensor | None = None
    for first, top, grid in part.blocks():
        rows, height = grid.shape[1], grid.shape[3]
        if sums is None:  # by source row of the block and source column, dy and target column
            sums = grid.new_zeros(B, rows, S, 2 * S - 1, S)
        diagonal_view(sums, first, top, rows, height).addcmul_(grid, grid)
        if B * S**4 <= KEPT:
            kept.append((first, top, grid))
    assert sums is not None, "there is a block"
    geometric = geometric_scores(diagonal_sums(sums.sum(1)))
    return geometric, *maxima(kept or part.blocks(), geometric)
