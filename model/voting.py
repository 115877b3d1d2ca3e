"""Voting: what turns appearance into match scores (method, section 5).

A voting is a function of a `Correlation`. It gives `Scores`: rows of match scores of some source cells, and the column
maxima that the mutual nearest-neighbour filter needs. `dense` makes a voting of any function of whole matrices.

The rest is the fast path of regularized Hough matching (`dhpf.model.hough`), which never builds an N×N matrix: its
geometric score depends on the offset from source to target cell alone. So (2S-1)² scores stand for N² of them, and the
scores of one source cell with all target cells are a window of S×S in that table. Along one axis of a 4×4 grid:

    offset             -3  -2  -1   0   1   2   3
    table               a   b   c   d   e   f   g
    source cell 0                   d   e   f   g      with the target cells 0 to 3
    source cell 1               c   d   e   f
    source cell 3       a   b   c   d

>>> table = torch.arange(49).view(1, 7, 7)
>>> rows_by_offset(table, torch.tensor([[1]])).view(4, 4)  # of source cell x = 1, y = 0
tensor([[23, 24, 25, 26],
        [30, 31, 32, 33],
        [37, 38, 39, 40],
        [44, 45, 46, 47]])
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dhpf.model.correlation import Block, Correlation
from dhpf.model.grid import Kind, cat, constant, pair_numbers, use_batched_kernels
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
    """Appearance times a Hough score, which depends on the offset from source to target cell alone.

    hough_scores: B×(2S-1)×(2S-1), of every offset (dy, dx); offset 0 is in the middle.
    row_max, column_max: the largest score of every source and of every target cell, B×N.
    """

    correlation: Correlation
    hough_scores: Tensor
    row_max: Tensor
    column_max: Tensor

    def __call__(self, cells: Tensor) -> Tensor:
        return self.correlation.appearance(cells) * rows_by_offset(self.hough_scores, cells)

    def __getitem__(self, pairs: slice) -> "OffsetScores":
        tensors = (x[pairs] for x in (self.hough_scores, self.row_max, self.column_max))
        return OffsetScores(self.correlation[pairs], *tensors)

    def entropies(self) -> Tensor:
        """What `losses.entropies` is of these scores, in one pass."""
        return entropies_by_offset(self.correlation, self.hough_scores, self.row_max, self.column_max)


def rows_by_offset(table: Tensor, cells: Tensor) -> Tensor:
    """The entries of a table by offset, B×(2S-1)×(2S-1), for some source cells, B×n, with all target cells: B×n×N."""
    S = (table.shape[-1] + 1) // 2
    pair = pair_numbers(table, len(cells))
    windows = table.unfold(1, S, 1).unfold(2, S, 1)  # B×S×S×S×S: a window for every source cell
    y, x = _window_corners(table, S)[:, cells]
    return windows[pair, y, x].flatten(2)


@constant
def _window_corners(like: Kind, S: int) -> Tensor:
    """Where the windows of all source cells begin in a table by offset, (dy, dx), 2×S²."""
    cell = torch.arange(S * S, device=like.device)
    return S - 1 - torch.stack([cell // S, cell % S])


@torch.no_grad()
def maxima(blocks: Iterable[Block], hough_scores: Tensor) -> tuple[Tensor, Tensor]:
    """The largest match score of every source and of every target cell, both B×N.

    Args:
        blocks: the similarities of B pairs (`CorrelationFactors.blocks`).
        hough_scores: as in `OffsetScores`.
    """
    B, S = len(hough_scores), (hough_scores.shape[-1] + 1) // 2
    # The largest of appearance times Hough score is the square of the largest of their roots' products.
    # ..., source column, dy, target column
    windows = hough_scores.sqrt().unfold(2, S, 1).flip(2).transpose(1, 2).contiguous()
    row, column = hough_scores.new_zeros(2, B, S, S)
    for first, top, similarity in blocks:
        rows, height = similarity.shape[1], similarity.shape[3]
        step = (
            rows if use_batched_kernels(similarity) else 1
        )  # a view of a row's windows, or a copy of all rows'
        for i in range(0, rows, step):
            offset = top - first - i + S - 1
            if step == 1:
                window = windows[:, None, :, offset : offset + height]
            else:
                axis = torch.arange(max(rows, height), device=similarity.device)
                window = windows[:, :, offset + axis[:height] - axis[:rows, None]].transpose(1, 2)
            product = similarity[:, i : i + step] * window
            here = column[:, top : top + height]
            torch.maximum(here, product.amax((1, 2)), out=here)
            here = row[:, first + i : first + i + step]
            torch.maximum(here, product.flatten(3).amax(3), out=here)
    return row.square().flatten(1), column.square().flatten(1)


def no_voting(correlation: Correlation) -> Scores:
    """Appearance alone."""
    ones = [part.src_length.new_ones(len(part), *(2 * part.side - 1,) * 2) for part in correlation.parts]
    parts = [(one, *maxima(part.blocks(), one)) for part, one in zip(correlation.parts, ones, strict=True)]
    return from_offsets(correlation, parts)


def from_offsets(correlation: Correlation, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Scores:
    """Scores by `OffsetScores`, from the Hough scores, row and column maxima of each part of the correlation."""
    hough_scores, row_max, column_max = (cat(x) for x in zip(*parts, strict=True))
    return Scores(OffsetScores(correlation, hough_scores, row_max, column_max), column_max)


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
