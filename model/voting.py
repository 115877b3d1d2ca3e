"""Voting: what turns appearance into match scores.

A voting is a function of a `Correlation`; it gives `Scores`: rows of match scores of some source cells, and the column
maxima that the mutual nearest-neighbour filter needs. Regularized Hough matching (`model.hough`) and `no_voting` here
never build an N×N matrix; `dense` makes a voting of any function that does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dhpf.model.correlation import Block, Correlation
from dhpf.model.grid import cat, constant, pairs, use_batched_kernels
from dhpf.model.weak_loss import entropies_by_offset


class ScoreRows(Protocol):
    """Match scores of B pairs, some rows at a time."""

    def __call__(self, cells: Tensor) -> Tensor:
        """Match scores of some source cells (numbers, B×n) with all target cells, B×n×N."""

    def __getitem__(self, pairs: slice) -> "ScoreRows":
        """Those of some of the pairs."""


@dataclass(frozen=True)
class Scores:
    """Match scores of B pairs.

    rows: those of some source cells.
    column_max: for every target cell the largest of any source cell, B×N, without gradient.
    """

    rows: ScoreRows
    column_max: Tensor

    def __getitem__(self, pairs: slice) -> "Scores":
        return Scores(self.rows[pairs], self.column_max[pairs])


Voting = Callable[[Correlation], Scores]


@dataclass(frozen=True)
class OffsetScores:
    """Appearance times a factor that depends on the displacement alone.

    factors: B×(2S-1)×(2S-1), of every displacement (dy, dx) from source to target cell.
    row_max, column_max: the largest score of every source and of every target cell, B×N.
    """

    correlation: Correlation
    factors: Tensor
    row_max: Tensor
    column_max: Tensor

    def __call__(self, cells: Tensor) -> Tensor:
        return self.correlation.appearance(cells) * factor_rows(self.factors, cells)

    def __getitem__(self, pairs: slice) -> "OffsetScores":
        tensors = (x[pairs] for x in (self.factors, self.row_max, self.column_max))
        return OffsetScores(self.correlation[pairs], *tensors)

    def entropies(self) -> Tensor:
        """What `losses.entropies` is of these scores, in one pass."""
        return entropies_by_offset(self.correlation, self.factors, self.row_max, self.column_max)


def factor_rows(factors: Tensor, cells: Tensor) -> Tensor:
    """The factors of some source cells (B×n) with all target cells, B×n×N, from the table by displacement."""
    S = (factors.shape[-1] + 1) // 2
    pair = pairs(len(cells), factors)
    windows = factors.unfold(1, S, 1).unfold(2, S, 1)  # B×S×S×S×S: a window for every source cell
    y, x = _corners(S, factors)[:, cells]
    return windows[pair, y, x].flatten(2)


@constant
def _corners(S: int, like: Tensor) -> Tensor:
    """Where the windows of all source cells begin, (dy, dx), 2×S²."""
    cell = torch.arange(S * S, device=like.device)
    return S - 1 - torch.stack([cell // S, cell % S])


@torch.no_grad()
def maxima(blocks: Iterable[Block], factors: Tensor) -> tuple[Tensor, Tensor]:
    """The largest match score of every source and of every target cell, both B×N.

    Args:
        blocks: the similarities of B pairs (`CorrelationFactors.blocks`).
        factors: as in `OffsetScores`.
    """
    B, S = len(factors), (factors.shape[-1] + 1) // 2
    # The largest of appearance times factor is the square of the largest of their roots' products.
    windows = (
        factors.sqrt().unfold(2, S, 1).flip(2).transpose(1, 2).contiguous()
    )  # ..., source column, dy, target's
    row, column = factors.new_zeros(2, B, S, S)
    for first, top, grid in blocks:
        rows, height = grid.shape[1], grid.shape[3]
        step = rows if use_batched_kernels(grid) else 1  # a view of a row's windows, or a copy of all rows'
        for i in range(0, rows, step):
            offset = top - first - i + S - 1
            if step == 1:
                window = windows[:, None, :, offset : offset + height]
            else:
                axis = torch.arange(max(rows, height), device=grid.device)
                window = windows[:, :, offset + axis[:height] - axis[:rows, None]].transpose(1, 2)
            product = grid[:, i : i + step] * window
            here = column[:, top : top + height]
            torch.maximum(here, product.amax((1, 2)), out=here)
            here = row[:, first + i : first + i + step]
            torch.maximum(here, product.flatten(3).amax(3), out=here)
    return row.square().flatten(1), column.square().flatten(1)


def no_voting(correlation: Correlation) -> Scores:
    """Appearance alone."""
    ones = [part.src_length.new_ones(len(part), *(2 * part.side - 1,) * 2) for part in correlation.parts]
    found = [(one, *maxima(part.blocks(), one)) for part, one in zip(correlation.parts, ones, strict=True)]
    return from_offsets(correlation, found)


def from_offsets(correlation: Correlation, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Scores:
    """Scores by `OffsetScores`, from the factors, row maxima and column maxima of each part of the correlation."""
    factors, row_max, column_max = (cat(x) for x in zip(*parts, strict=True))
    return Scores(OffsetScores(correlation, factors, row_max, column_max), column_max)


@dataclass(frozen=True)
class DenseRows:
    """Rows of whole matrices of match scores, B×N×N."""

    matrix: Tensor

    def __call__(self, cells: Tensor) -> Tensor:
        return self.matrix.gather(1, cells[:, :, None].expand(-1, -1, self.matrix.shape[2]))

    def __getitem__(self, pairs: slice) -> "DenseRows":
        return DenseRows(self.matrix[pairs])


def dense(vote: Callable[[Tensor], Tensor]) -> Voting:
    """A voting from a function of whole appearance matrices, B×N×N (source, target) -> match scores B×N×N.

    Scores are not negative. A gradient goes through whatever `vote` does not detach.
    """

    def voting(correlation: Correlation) -> Scores:
        matrix = vote(correlation.appearance(correlation.cells))
        return Scores(DenseRows(matrix), matrix.detach().amax(1))

    return voting
