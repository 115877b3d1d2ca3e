"""Regularized Hough matching (docs/method.md, section 5, paper section 3.3).

A match votes for a bin that depends on its displacement alone, so the N² votes are first summed by displacement
into a (2S-1)×(2S-1) table, and the geometric score is such a table, too.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dhpf.model.correlation import Correlation
from dhpf.model.grid import STRIDE
from dhpf.model.voting import Scores


def skewed(L: int, S: int, M: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Two views of one zeroed memory: x, L×S×M×S, to be filled; and x by displacement, L×S×M×(2S-1).

    skew[l, i, m, d + S - 1] = x[l, i, m, i + d] where that exists, else 0: behind S zeros a row, one step down
    x's second axis plus one to the right is a constant stride.
    """
    slab = S * M * 2 * S
    memory = like.new_zeros(L, slab + S)
    x = memory[:, :slab].view(L, S, M, 2 * S)[..., S:]
    return x, memory.as_strided((L, S, M, 2 * S - 1), (slab + S, M * 2 * S + 1, 2 * S, 1), 1)


def diagonal_sums(x: Tensor) -> Tensor:
    """Sums over equal displacement: L×S×M×S -> L×M×(2S-1), out[l, m, d + S - 1] = Σ_i x[l, i, m, i + d]."""
    L, S, M, _ = x.shape
    filled, skew = skewed(L, S, M, x)
    filled.copy_(x)
    return skew.sum(1)


def geometric_scores(votes: Tensor) -> Tensor:
    """Smoothed Hough score of every displacement from the votes of every displacement, both B×(2S-1)×(2S-1)."""
    S = (votes.shape[-1] + 1) // 2
    image = STRIDE * S
    cell = math.sqrt((2 * image) ** 2 // 8192)  # the published integer division: sqrt(28) at 240 pixels
    bins = int(2 * image / cell) + 1
    offset = torch.arange(1 - S, S, device=votes.device)
    index = ((image + STRIDE * offset) / cell).floor().long()
    onehot = F.one_hot(index, bins).to(votes.dtype)
    histogram = onehot.T @ votes @ onehot
    x = torch.arange(-3, 4, device=votes.device, dtype=votes.dtype)
    kernel = torch.exp(-x.square() / (2 * (7 / 2 / 2.354) ** 2))
    kernel = torch.outer(kernel, kernel) / kernel.sum().square()
    smooth = F.conv2d(histogram[:, None], kernel[None, None], padding=3)[:, 0]
    return smooth[:, index][:, :, index]


def score_rows(geometric: Tensor, cells: Tensor, axis: Tensor | None = None) -> Tensor:
    """Geometric scores of some source cells (B×n) with the target cells, B×n×T².

    `geometric` is the B×(2S-1)×(2S-1) table of `geometric_scores`; `axis` restricts the target grid's rows and
    columns.
    """
    S = (geometric.shape[-1] + 1) // 2
    pair = torch.arange(len(cells), device=cells.device)[:, None]
    windows = geometric.unfold(1, S, 1).unfold(2, S, 1)  # B×S×S×S×S: a window for every source cell
    rows = windows[pair, S - 1 - cells // S, S - 1 - cells % S]
    if axis is not None:
        rows = rows[:, :, axis][..., axis]
    return rows.flatten(2)


@dataclass(frozen=True)
class HoughRows:
    """Rows of match scores: appearance times the geometric score of the displacement.

    geometric: the B×(2S-1)×(2S-1) table of `geometric_scores`; axis: as in `score_rows`.
    """

    correlation: Correlation
    geometric: Tensor
    axis: Tensor | None = None

    def __call__(self, cells: Tensor) -> Tensor:
        return self.correlation.appearance(cells) * score_rows(self.geometric, cells, self.axis)

    def __getitem__(self, pairs: slice) -> "HoughRows":
        return HoughRows(self.correlation[pairs], self.geometric[pairs], self.axis)

    def towards(self, axis: Tensor, reverse: bool) -> "HoughRows":
        geometric = self.geometric.flip(1, 2) if reverse else self.geometric
        return HoughRows(self.correlation.towards(axis, reverse), geometric, axis)


def hough_voting(correlation: Correlation) -> Scores:
    """Regularized Hough matching as a voting; no gradient goes through the geometric scores."""
    geometric, column_max = hough_matching(correlation)
    return Scores(HoughRows(correlation, geometric), column_max)


@torch.no_grad()
def hough_matching(correlation: Correlation) -> tuple[Tensor, Tensor]:
    """Geometric scores and column maxima of B pairs.

    Returns:
        geometric: B×(2S-1)×(2S-1), the geometric score of every displacement (dy, dx).
        column_max: B×N, for every target cell the largest match score of any source cell.
    """
    # A block of matrix rows fits the processor's cache, or is large enough to keep a GPU busy.
    lengths = correlation.src_length
    N, block = lengths.shape[1], 2**26 if lengths.is_cuda else 2**20
    together = max(1, block // N**2)
    parts = [_match(correlation[b : b + together], block) for b in range(0, len(correlation), together)]
    geometric, column_max = zip(*parts, strict=True)
    return torch.cat(geometric), torch.cat(column_max)


def _match(correlation: Correlation, block: int) -> tuple[Tensor, Tensor]:
    """`hough_matching` of a few pairs, `block` matrix elements at a time."""
    B, N = correlation.src_length.shape
    S = round(N**0.5)
    rows = max(1, min(S, block // (B * S**3)))
    cells = torch.arange(N, device=correlation.src_length.device).expand(B, -1).split(rows * S, dim=1)
    keep = max(block, 2**26) >= B * N**2  # what would take more memory is computed twice
    kept, by_column = [], []
    squares, skew = skewed(B * rows, S, S, correlation.src_length)
    for c in cells:
        grid = correlation.similarity(c).view(-1, S, S, S)  # (pair, source row), source column, target cell
        torch.mul(grid, grid, out=squares[: len(grid)])
        by_column.append(skew[: len(grid)].sum(1).view(B, -1, S, 2 * S - 1))
        if keep:
            kept.append(grid)
    votes = diagonal_sums(torch.cat(by_column, 1).transpose(2, 3)).transpose(1, 2)
    geometric = geometric_scores(votes)

    # The largest of appearance times geometric score is the square of the largest of their roots' products.
    windows = geometric.sqrt().unfold(2, S, 1).flip(2)  # pair, dy, source column, target column
    largest = torch.zeros_like(correlation.trg_length).view(B, S, S)
    product = torch.empty_like(windows[:, :S])
    for i, c in enumerate(cells):
        grid = kept[i] if keep else correlation.similarity(c).view(-1, S, S, S)
        for r, row in enumerate(grid.view(B, -1, S, S, S).unbind(1), start=i * rows):
            window = windows[:, S - 1 - r : 2 * S - 1 - r].transpose(1, 2)
            largest = torch.maximum(largest, torch.mul(row, window, out=product).amax(1))
    return geometric, largest.square().flatten(1)
