"""Fast path of the weak loss's entropies (method, section 7; `reference.entropy`): value and gradient in one pass.

Rows are the cells i of one image; columns are those cells j of the other that the reduction to R×R places r reads.
Along one axis, 4 cells reduced to R = 3 places, which lie at the cells' positions 0, 1.5 and 3:

    cells     0 ───── 1 ──┬── 2 ───── 3        place 1 = 1/2 cell 1 + 1/2 cell 2
    places    0           1           2        Of 60 cells, 15 places read 28: a row has 784 scores instead of 3600.

With a_ij the products of hypercolumns, l_i and l_j their lengths, and w_rj the weights of the reduction:

    s_ij = relu(a_ij / (l_i l_j + 10⁻³))          the root of the appearance score
    c_ij = s_ij² g_ij                             the match score; the Hough score g has no gradient
    m_j = max_i c_ij                              a maximum of the filter; the row's own cancels in π
    q_ir = Σ_j w_rj c_ij³ / m_j                   filtered and reduced
    π_ir = q_ir / q_i,  q_i = Σ_r q_ir,  H = mean_i H_i,  H_i = -Σ_r π_ir log2 π_ir

Comparing has found the maxima m_j already. So H is a sum over rows that do not depend on each other, and a block of
rows gives its share of the value and of the gradient together, while it lies in the processor's cache:

    for each block of rows      s ──▶ c ──▶ q ──▶ π ──▶ H_i     the value
                                gradients ◀── E ◀── ∂H/∂q ◀─┘   the gradient, of the same s and c
    behind the last block       what the maxima m_j pass on

    ∂H/∂q_ir = -(log2 π_ir + H_i) / (N q_i)
    E_ij = 6 c_ij³ / m_j Σ_r w_rj ∂H/∂q_ir        which is s_ij ∂H/∂s_ij, but for the maxima
    ∂H/∂a_ij = E_ij / a_ij,   ∂H/∂l_i = -Σ_j l_j E_ij / (l_i l_j + 10⁻³),   likewise ∂H/∂l_j

Where c_ij is the maximum m_j, of equal ones the first, as `max` passes gradients, -Σ_i E_ij / 3 is added to E_ij.
Between a and the maps everything is linear. The backward pass of autograd only scales what lies ready.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dhpf.model.correlation import (
    COSINE_EPS,
    MIN_LENGTH,
    Correlation,
    NativeRows,
    block_entries,
    row_taps,
    weighted_sums,
)
from dhpf.model.grid import Kind, constant, interpolation, linear_taps
from dhpf.model.transfer import EPS

ENTROPY_SIDE = 15  # R, side of the grid that score maps are reduced to before their entropy is taken
# The largest g is scaled to this: in float32, c³ neither overflows nor vanishes, if c is not 1e-18 of the largest.
MAX_HOUGH_SCORE = 1e10


def entropies_by_offset(
    correlation: Correlation, hough_scores: Tensor, row_max: Tensor, column_max: Tensor
) -> Tensor:
    """Entropy of each pair's match scores, appearance times Hough score; the mean of both directions, B.

    Args:
        hough_scores: B×(2S-1)×(2S-1), by offset (dy, dx), without gradient.
        row_max, column_max: the largest score of every source and of every target cell, B×N, without gradient.
    """
    values: list[Tensor] = []
    for part in correlation.parts:
        for b in range(len(part)):
            lengths = part.src_length[b], part.trg_length[b]
            maps = [x[b] for x in (*part.src, *part.trg)]
            p = len(values)
            gradient = torch.is_grad_enabled() and any(x.requires_grad for x in maps)
            maxima = row_max[p], column_max[p]
            values.append(_Entropy.apply(hough_scores[p], maxima, gradient, *lengths, *maps))
    return torch.stack(values)


@dataclass(frozen=True)
class _Direction:
    """What the scores of a pair are made of, seen from one of its images.

    own, other: maps N×C of side S of this and of the other image; own_length, other_length: their lengths N.
    products: for every smaller side h the inner products h²×h² of own with other.
    hough_scores: (2S-1)×(2S-1), of every offset from own to other.  maxima: N, of the other's cells.
    """

    own: Tensor
    other: Tensor
    own_length: Tensor
    other_length: Tensor
    products: list[Tensor]
    hough_scores: Tensor
    maxima: Tensor


@dataclass
class _Gradients:
    """The gradients of the mean entropy of a direction for what it is computed from, named as in `_Direction`."""

    own: Tensor
    other: Tensor
    own_length: Tensor
    other_length: Tensor
    products: list[Tensor]


class _Entropy(torch.autograd.Function):
    """The entropy of a pair, the mean of both directions, from lengths and maps (of every side, S first, h²×C)."""

    @staticmethod
    def forward(
        ctx: Any,
        hough_scores: Tensor,
        maxima: tuple[Tensor, Tensor],
        gradient: bool,
        src_length: Tensor,
        trg_length: Tensor,
        *maps: Tensor,
    ) -> Tensor:
        src, trg = maps[: len(maps) // 2], maps[len(maps) // 2 :]
        scale = MAX_HOUGH_SCORE / hough_scores.max().clamp(min=EPS)
        g, (row_max, column_max) = hough_scores * scale, (m * scale for m in maxima)
        products = [s @ t.T for s, t in zip(src[1:], trg[1:], strict=True)]
        turned = [p.T.contiguous() for p in products]
        to_trg = _Direction(src[0], trg[0], src_length, trg_length, products, g, column_max)
        to_src = _Direction(trg[0], src[0], trg_length, src_length, turned, g.flip(0, 1), row_max)
        (there, d), (back, e) = (_mean_entropy(direction, gradient) for direction in (to_trg, to_src))
        if d and e:
            d_src_length = d.own_length.add_(e.other_length).div_(2)
            d_trg_length = d.other_length.add_(e.own_length).div_(2)
            d_src = d.own.add_(e.other).div_(2)
            d_trg = d.other.add_(e.own).div_(2)
            inner = [x.add_(y.T).div_(2) for x, y in zip(d.products, e.products, strict=True)]
            coarse_src = [x @ t for x, t in zip(inner, trg[1:], strict=True)]
            coarse_trg = [x.T @ s for x, s in zip(inner, src[1:], strict=True)]
            ctx.save_for_backward(d_src_length, d_trg_length, d_src, *coarse_src, d_trg, *coarse_trg)
        return (there + back) / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(d * grad for d in ctx.saved_tensors)


def _mean_entropy(direction: _Direction, gradient: bool) -> tuple[Tensor, _Gradients | None]:
    """Mean entropy of the cells of one image, and with `gradient` its gradients."""
    scores = _RowScores(direction)
    sums = _GradientSums(scores) if gradient else None
    value = direction.own.new_zeros(())
    for first in range(0, scores.S, scores.depth):
        block = scores.block(first, min(scores.S, first + scores.depth))
        if sums:
            sums.find_maxima(block)
        filtered = block.roots.pow_(3).square_().mul_(scores.column_weight)  # w c³ / m
        T = scores.T
        p = _reduce(filtered.view(-1, T, T)).flatten(1)
        total = p.sum(1, keepdim=True)
        total = torch.where(total < EPS, 1, total)
        p = p.div_(total).clamp_(min=EPS)
        bits = p.log2()
        entropy = -(p * bits).sum(1, keepdim=True)
        value += entropy.sum()
        if sums:
            slope = bits.add_(entropy).div_(total * (-scores.N / 6))  # 6 ∂H/∂q
            slope = slope.view(-1, ENTROPY_SIDE, ENTROPY_SIDE)
            sums.add(block, E=filtered.mul_(_spread(slope).flatten(1)))
    return value / scores.N, sums.finish() if sums else None


@dataclass
class _Block:
    """Scores of the cells of grid rows first..end; `rows` are their numbers.

    similarity: s, n×T².  divisor: l_j + 10⁻³ / l_i.  roots: of the match scores, s √g.
    """

    first: int
    end: int
    rows: slice
    similarity: Tensor
    divisor: Tensor
    roots: Tensor


class _RowScores:
    """Scores of a direction by blocks of rows, with the T² columns alone that the reduction reads.

    As in `CorrelationFactors.blocks`, rows are divided by l_i in advance, and are sums of rows of a table.
    """

    def __init__(self, direction: _Direction) -> None:
        own, products = direction.own, direction.products
        self.direction = direction
        self.N = len(own)
        self.S = S = isqrt(self.N)
        self.axis, weight = _reads(own, S, ENTROPY_SIDE)
        self.T = T = len(self.axis)
        self.cells = cells = (self.axis[:, None] * S + self.axis).flatten()
        self.length = direction.own_length.clamp(min=MIN_LENGTH)[:, None]
        self.own, self.margin = own / self.length, COSINE_EPS / self.length
        self.other, self.other_length = direction.other[cells], direction.other_length[cells]
        self.sides = [isqrt(len(p)) for p in products]
        self.ups = [interpolation(own, h, S)[self.axis] for h in self.sides]
        tables = [
            (up @ p.view(-1, h, h) @ up.T).flatten(1)
            for up, p, h in zip(self.ups, products, self.sides, strict=True)
        ]
        self.table = torch.cat([*tables, own.new_zeros(1, T * T)])  # at least a row
        self.extents = tuple(NativeRows(h, 0, h) for h in self.sides)
        self.index, row_weight = (x[0] for x in row_taps(own, 1, S, 0, S, self.extents))
        self.row_weight = row_weight / self.length
        self.column_weight = weight / direction.maxima[cells].clamp(min=EPS)
        self.offset = (
            self.axis - torch.arange(S, device=own.device)[:, None] + S - 1
        )  # of every own row or column
        self.windows = direction.hough_scores.sqrt()[:, self.offset]  # dy, own column, column
        self.depth = max(1, min(S, block_entries(own) // (4 * S * T * T)))  # grid rows of a block

    def block(self, first: int, end: int) -> _Block:
        S, T, rows = self.S, self.T, slice(first * self.S, end * self.S)
        similarity = weighted_sums(self.table, self.index[rows], self.row_weight[rows])
        similarity.addmm_(self.own[rows], self.other.T)
        divisor = self.other_length + self.margin[rows]
        similarity.div_(divisor).clamp_(min=0)
        window = self.windows[self.offset[first:end]].transpose(1, 2)
        roots = (similarity.view(-1, S, T, T) * window).view(-1, T * T)
        return _Block(first, end, rows, similarity, divisor, roots)


class _GradientSums:
    """The gradients of a direction's mean entropy, summed over blocks of rows; named as in `_RowScores`."""

    def __init__(self, scores: _RowScores) -> None:
        self.scores = scores
        self.own_length = torch.empty_like(scores.direction.own_length)
        self.other_length = torch.zeros_like(scores.other_length)
        self.own = torch.empty_like(scores.direction.own)
        self.other = torch.zeros_like(scores.other)
        self.table = torch.zeros_like(scores.table)
        self.column_sums = scores.own.new_zeros(scores.T**2)  # of E
        # The maxima, as roots; what is smaller is not the maximum, rounded otherwise.
        self.best = scores.direction.maxima[scores.cells].sqrt() * 0.999
        self.best_row, self.best_similarity = torch.zeros_like(scores.cells), torch.zeros_like(self.best)

    def find_maxima(self, block: _Block) -> None:
        """Where a column's score in this block is larger than in those before."""
        top = block.roots.amax(0)
        larger = (top > self.best).nonzero()[:, 0]
        row = block.roots[:, larger].argmax(0)
        self.best[larger], self.best_row[larger] = top[larger], row + block.rows.start
        self.best_similarity[larger] = block.similarity[row, larger]

    def add(self, block: _Block, E: Tensor) -> None:
        """A block's share, but for the maxima. Writes to the block and to E."""
        scores, rows = self.scores, block.rows
        self.column_sums += E.sum(0)
        E.div_(block.divisor)
        self.other_length -= E.sum(0)
        self.own_length[rows] = -(E @ scores.other_length)
        E.div_(block.similarity.clamp_(min=EPS))
        self.own[rows] = E @ scores.other
        self.other.addmm_(E.T, scores.own[rows])
        table_rows, cells, weight, offsets = _bags(E, scores.S, block.first, block.end, scores.extents)
        weight = weight / scores.length[rows][cells, 0]
        share = F.embedding_bag(cells, E, offsets, per_sample_weights=weight, mode="sum")
        self.table.index_add_(0, table_rows, share)

    def finish(self) -> _Gradients:
        """What the maxima pass on is added, and the gradients for cells and tables become those for all of the maps."""
        scores, row, T = self.scores, self.best_row, self.scores.T
        E = self.column_sums / -3 / (scores.other_length + scores.margin[row, 0])
        E = torch.where(self.best_similarity > 0, E, 0)
        self.other_length -= E
        self.own_length.index_add_(0, row, -(E * scores.other_length))
        E = E / self.best_similarity.clamp(min=EPS)
        self.own.index_add_(0, row, E[:, None] * scores.other)
        self.other += E[:, None] * scores.own[row]
        columns = torch.arange(T * T, device=row.device)[:, None]
        self.table.index_put_(
            (scores.index[row], columns), scores.row_weight[row] * E[:, None], accumulate=True
        )
        tables = self.table.view(-1, T, T).split([*(h * h for h in scores.sides), 1])[:-1]
        products = [(up.T @ d @ up).flatten(1) for up, d in zip(scores.ups, tables, strict=True)]
        direction, cells = scores.direction, scores.cells
        return _Gradients(
            self.own / scores.length,
            torch.zeros_like(direction.other).index_add_(0, cells, self.other),
            self.own_length / scores.length[:, 0],
            torch.zeros_like(direction.other_length).index_add_(0, cells, self.other_length),
            products,
        )


@constant
def _reads(like: Kind, S: int, R: int) -> tuple[Tensor, Tensor]:
    """The cells that the reduction of S cells to R places reads along an axis, and the weights of pairs of them.

    First for each place but the last the lower of its two cells, then for each but the first the upper one; the others
    have weight 0. So `_reduce` adds two halves, shifted by a place.

    >>> axis, weight = _reads(torch.zeros(0), 4, 3)
    >>> axis  # place 0 reads cell 0, place 1 reads cells 1 and 2, place 2 reads cell 3
    tensor([0, 1, 2, 3])
    >>> weight.view(4, 4)[0]
    tensor([1.0000, 0.5000, 0.5000, 1.0000])
    >>> x = torch.arange(16.0).view(1, 4, 4)
    >>> _reduce(x * weight.view(4, 4))
    tensor([[[ 0.0000,  1.5000,  3.0000],
             [ 6.0000,  7.5000,  9.0000],
             [12.0000, 13.5000, 15.0000]]])

    Returns:
        Numbers of T = 2R - 2 cells, and T² weights.
    """
    index, _ = linear_taps(like, S, R)
    reduction = interpolation(like, S, R)
    place = torch.arange(R, device=like.device)
    axis = torch.cat([index[:-1, 0], index[1:, 1]])
    weight = torch.cat([reduction[place[:-1], index[:-1, 0]], reduction[place[1:], index[1:, 1]]])
    return axis, torch.outer(weight, weight).flatten()


def _reduce(x: Tensor) -> Tensor:
    """Sums of what is read for each place, n×T×T -> n×R×R."""
    n, R = len(x), x.shape[1] // 2 + 1
    half = x.new_zeros(n, R, 2 * R - 2)
    half[:, :-1] = x[:, : R - 1]
    half[:, 1:] += x[:, R - 1 :]
    whole = x.new_zeros(n, R, R)
    whole[..., :-1] = half[..., : R - 1]
    whole[..., 1:] += half[..., R - 1 :]
    return whole


def _spread(x: Tensor) -> Tensor:
    """The transpose of `_reduce`: n×R×R -> n×T×T."""
    half = torch.cat([x[..., :-1], x[..., 1:]], 2)
    return torch.cat([half[:, :-1], half[:, 1:]], 1)


@constant
def _bags(
    like: Kind, S: int, first: int, last: int, extents: tuple[NativeRows, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The transpose of `row_taps` for the cells of grid rows first..last: which cells read a row of the table.

    Returns:
        The rows that are read; for each a bag of the numbers of the cells, counted from the first, that read it, one
        bag after the other, and their weights; where each bag begins.
    """
    index, weight = (x[0] for x in row_taps(like, 1, S, first, last, extents))
    order = index.flatten().argsort(stable=True)
    rows, counts = index.flatten()[order].unique_consecutive(return_counts=True)
    return rows, order // max(1, index.shape[1]), weight.flatten()[order], counts.cumsum(0) - counts
