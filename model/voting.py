"""Voting: what turns appearance into match scores.

A voting is a function of a `Correlation`; it gives `Scores`: rows of match scores of some source cells, the column
maxima that the mutual nearest-neighbour filter needs, and the rows of the reverse direction. Regularized Hough matching
(`model.hough`) and `no_voting` here never build an N×N matrix; `dense` makes a voting of any function that does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dhpf.model.correlation import Correlation


class Rows(Protocol):
    """Match scores of B pairs, some rows at a time."""

    def __call__(self, cells: Tensor) -> Tensor:
        """Match scores of some source cells (numbers, B×n) with all target cells, B×n×N."""

    def __getitem__(self, pairs: slice) -> "Rows":
        """Those of some of the pairs."""

    def towards(self, axis: Tensor, reverse: bool) -> "Rows":
        """The same scores with the target cells in the rows, and likewise the columns, `axis` of the grid alone.

        reverse: of the target's cells with the source's.
        """


@dataclass(frozen=True)
class Scores:
    """Match scores of B pairs.

    rows: those of some source cells.
    column_max: for every target cell the largest of any source cell, B×N, without gradient.
    """

    rows: Rows
    column_max: Tensor

    def __getitem__(self, pairs: slice) -> "Scores":
        return Scores(self.rows[pairs], self.column_max[pairs])


Voting = Callable[[Correlation], Scores]


@dataclass(frozen=True)
class AppearanceRows:
    """Appearance alone as match scores."""

    correlation: Correlation

    def __call__(self, cells: Tensor) -> Tensor:
        return self.correlation.appearance(cells)

    def __getitem__(self, pairs: slice) -> "AppearanceRows":
        return AppearanceRows(self.correlation[pairs])

    def towards(self, axis: Tensor, reverse: bool) -> "AppearanceRows":
        return AppearanceRows(self.correlation.towards(axis, reverse))


def no_voting(correlation: Correlation) -> Scores:
    """Appearance alone."""
    cells = all_cells(correlation)
    rows = max(1, 2**22 // cells.numel())  # a block of the matrix at a time
    with torch.no_grad():
        maxima = [correlation.appearance(c).amax(1) for c in cells.split(rows, dim=1)]
    return Scores(AppearanceRows(correlation), torch.stack(maxima).amax(0))


@dataclass(frozen=True)
class DenseRows:
    """Rows of whole matrices of match scores, B×N×M."""

    matrix: Tensor

    def __call__(self, cells: Tensor) -> Tensor:
        return self.matrix.gather(1, cells[:, :, None].expand(-1, -1, self.matrix.shape[2]))

    def __getitem__(self, pairs: slice) -> "DenseRows":
        return DenseRows(self.matrix[pairs])

    def towards(self, axis: Tensor, reverse: bool) -> "DenseRows":
        matrix = self.matrix.mT if reverse else self.matrix
        side = round(matrix.shape[2] ** 0.5)
        return DenseRows(matrix[:, :, (axis[:, None] * side + axis).flatten()])


def dense(vote: Callable[[Tensor], Tensor]) -> Voting:
    """A voting from a function of whole appearance matrices, B×N×N (source, target) -> match scores B×N×N.

    Scores are not negative. A gradient goes through whatever `vote` does not detach.
    """

    def voting(correlation: Correlation) -> Scores:
        matrix = vote(correlation.appearance(all_cells(correlation)))
        return Scores(DenseRows(matrix), matrix.detach().amax(1))

    return voting


def all_cells(correlation: Correlation) -> Tensor:
    """The numbers of all source cells, B×N."""
    B, N = correlation.src_length.shape
    return torch.arange(N, device=correlation.src_length.device).expand(B, -1)
