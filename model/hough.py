"""Fast path of regularized Hough matching (method, section 5, paper section 3.3; `reference.geometric_scores`).

The bin that a match votes for depends on its offset alone, target cell minus source cell. So the N² votes are summed by
offset first, which gives (2S-1)² numbers, and these vote. Likewise the geometric scores are a table by offset. Along
one axis of a 4×4 grid, 16 matches have 7 offsets, and each offset is a diagonal of the matrix of votes:

    target      0   1   2   3
    source 0    0   1   2   3        The offset -1, for instance, sums the votes of the matches
           1   -1   0   1   2        1 -> 0, 2 -> 1 and 3 -> 2.
           2   -2  -1   0   1
           3   -3  -2  -1   0

>>> votes = torch.arange(16.0).view(1, 4, 1, 4)
>>> diagonal_sums(votes)[0, 0]  # 12, 8 + 13, 4 + 9 + 14, ...
tensor([12., 21., 27., 30., 18.,  9.,  3.])

Both axes are summed one after the other: a block's rows (dy) by `diagonal_view`, while it lies in the processor's
cache, then the columns (dx) of all of them by `diagonal_sums`.
"""

import math
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from dhpf.model.correlation import Block, Correlation, CorrelationFactors
from dhpf.model.grid import STRIDE, Kind, constant
from dhpf.model.voting import Scores, from_offsets, maxima

# Similarities beyond are computed twice, for the votes and for the maxima; all are, if these are fewer than half.
MAX_KEPT_ENTRIES = 2**27


def diagonal_view(memory: Tensor, first: int, top: int, rows: int, height: int) -> Tensor:
    """Memory by offset of rows, newly made, seen by source row and target row: B×R×S×(2S-1)×S -> B×rows×S×height×S.

    view[b, i, x, j, u] = memory[b, i, x, dy + S - 1, u], where dy is from source row first + i to target row top + j.
    The window of a source row slides by one dy from row to row, which is a constant stride. On a 4×4 grid, source rows
    1 and 2 with the target rows 0 to 3:

        dy              -3  -2  -1   0   1   2   3
        source row 1             0   1   2   3
        source row 2         0   1   2   3

    >>> memory = torch.zeros(1, 2, 4, 7, 4)
    >>> diagonal_view(memory, 1, 0, 2, 4)[..., 0] = torch.arange(4.0)  # the target row
    >>> memory[0, :, 0, :, 0]
    tensor([[0., 0., 0., 1., 2., 3., 0.],
            [0., 0., 1., 2., 3., 0., 0.]])
    """
    *_, R, S, D, _ = memory.shape
    slab = S * D * S
    offset = (top - first + S - 1) * S
    strides = (R * slab, slab - S, D * S, S, 1)
    return memory.as_strided((len(memory), rows, S, height, S), strides, offset)


def diagonal_sums(x: Tensor) -> Tensor:
    """Sums over equal offsets: L×S×M×S -> L×M×(2S-1), out[l, m, d + S - 1] = Σ_i x[l, i, m, i + d].

    Each row is written behind S zeros. Then one row down and one to the right is a constant stride, and a diagonal is a
    column of the strided view; where it has left the matrix it reads zeros. With S = 4, offset -1:

        0 0 0 .│ a b c d        . begins at (row 0, column -1), then comes e, then j, then o
        0 0 0 0│ e f g h
        0 0 0 0│ i j k l
        0 0 0 0│ m n o p
    """
    L, S, M, _ = x.shape
    slab = S * M * 2 * S
    memory = x.new_zeros(L, slab + S)
    memory[:, :slab].view(L, S, M, 2 * S)[..., S:] = x
    return memory.as_strided((L, S, M, 2 * S - 1), (slab + S, M * 2 * S + 1, 2 * S, 1), 1).sum(1)


def geometric_scores(votes: Tensor) -> Tensor:
    """The smoothed votes in the bin of every offset, from the votes of every offset: both B×(2S-1)×(2S-1)."""
    onehot, kernel = _hough_space(votes, (votes.shape[-1] + 1) // 2)
    histogram = onehot.T @ votes @ onehot
    smooth = F.conv2d(histogram[:, None], kernel, padding=3)[:, 0]
    return onehot @ smooth @ onehot.T


@constant
def _hough_space(like: Kind, S: int) -> tuple[Tensor, Tensor]:
    """The bin of every offset along an axis, (2S-1)×bins one-hot, and the smoothing kernel, 1×1×7×7."""
    image = STRIDE * S
    bin_side = math.sqrt((2 * image) ** 2 // 8192)  # the published integer division: sqrt(28) at 240 pixels
    bins = int(2 * image / bin_side) + 1
    offset = torch.arange(1 - S, S, device=like.device)
    onehot = F.one_hot(((image + STRIDE * offset) / bin_side).floor().long(), bins).to(like.dtype)
    x = torch.arange(-3, 4, device=like.device, dtype=like.dtype)
    kernel = torch.exp(-x.square() / (2 * (7 / 2 / 2.354) ** 2))
    return onehot, (torch.outer(kernel, kernel) / kernel.sum().square())[None, None]


def hough_voting(correlation: Correlation) -> Scores:
    """Regularized Hough matching as a voting; no gradient goes through the geometric scores."""
    return from_offsets(correlation, [hough_matching(part) for part in correlation.parts])


@torch.no_grad()
def hough_matching(part: CorrelationFactors) -> tuple[Tensor, Tensor, Tensor]:
    """Geometric scores of B pairs by offset (dy, dx), B×(2S-1)×(2S-1), and what `maxima` gives."""
    B, S = len(part), part.side
    kept: list[Block] = []
    kept_rows, max_rows = 0, MAX_KEPT_ENTRIES // (B * S**3)  # of the target
    votes: Tensor | None = None
    for block in part.blocks():
        rows, height = block.similarity.shape[1], block.similarity.shape[3]
        if votes is None:  # by source row of the block and source column, dy and target column
            votes = block.similarity.new_zeros(B, rows, S, 2 * S - 1, S)
        view = diagonal_view(votes, block.first, block.top, rows, height)
        view.addcmul_(block.similarity, block.similarity)  # the appearance is its square
        if block.top + height <= max_rows and 2 * max_rows >= S:
            kept.append(block)
            kept_rows = block.top + height
    assert votes is not None, "there is a block"
    geometric = geometric_scores(diagonal_sums(votes.sum(1)))
    return geometric, *maxima(chain(kept, part.blocks(kept_rows)), geometric)
