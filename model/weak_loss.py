"""The weak loss's entropies of scores by displacement, value and gradient in one pass (method, section 7).

For one direction let i be the cells of one image and j those cells of the other that the reduction to R×R places r
reads; a_ij = <f_i, f_j> the products of their hypercolumns, l_i and l_j the lengths, and

    s_ij = relu(a_ij / (l_i l_j + margin))        the root of the appearance score,
    c_ij = s_ij² g_ij                             the match score; g is without gradient,
    m_j = max_i c_ij                              a maximum of the filter; the row's own cancels in π,
    q_ir = Σ_j w_rj c_ij³ / m_j                   filtered and reduced, with bilinear weights w,
    π_ir = q_ir / q_i,  q_i = Σ_r q_ir,  H = mean_i H_i,  H_i = -Σ_r π_ir log2 π_ir.

Once the maxima are known, and comparing has found them, H is a sum over rows i. So a block of rows is computed once,
and its share of the gradient with it, while it lies in the processor's cache; the backward pass scales what is there:

    ∂H/∂q_ir = -(log2 π_ir + H_i) / (N q_i)
    E_ij = 6 c_ij³ / m_j Σ_r w_rj ∂H/∂q_ir        which is s_ij ∂H/∂s_ij, but for the maxima
    ∂H/∂a_ij = E_ij / a_ij,   ∂H/∂l_i = -Σ_j l_j E_ij / (l_i l_j + margin),   likewise ∂H/∂l_j.

Where c_ij is the maximum m_j, of equal ones the first, as `max` passes gradients, -Σ_i E_ij / 3 is added to E_ij.
Between a and the maps everything is linear.
"""

from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dhpf.model.correlation import (
    MARGIN,
    SHORTEST,
    Correlation,
    Extent,
    block_entries,
    row_taps,
    weighted_sums,
)
from dhpf.model.grid import constant, interpolation, linear_taps

ENTROPY_SIDE = 15  # R, side of the grid that score maps are reduced to before their entropy is taken
SCALE = (
    1e10  # of the largest g: c³ neither overflows in float32 nor vanishes, if c is not 1e-18 of the largest
)
NOTHING = 1e-30

Maps = list[Tensor]  # for every side h of layers, S first, h²×C


def entropies_by_offset(
    correlation: Correlation, factors: Tensor, row_max: Tensor, column_max: Tensor
) -> Tensor:
    """Entropy of each pair's match scores, appearance times a factor by displacement; the mean of both directions, B.

    Args:
        factors: B×(2S-1)×(2S-1), by displacement (dy, dx), without gradient.
        row_max, column_max: the largest score of every source and of every target cell, B×N, without gradient.
    """
    values: list[Tensor] = []
    for part in correlation.parts:
        for b in range(len(part)):
            lengths = part.src_length[b], part.trg_length[b]
            maps = [x[b] for x in (*part.src, *part.trg)]
            p = len(values)
            gradient = torch.is_grad_enabled() and any(x.requires_grad for x in maps)
            values.append(_Entropy.apply(factors[p], (row_max[p], column_max[p]), gradient, *lengths, *maps))
    return torch.stack(values)


class _Entropy(torch.autograd.Function):
    """The entropy of a pair, the mean of both directions, from lengths and maps."""

    @staticmethod
    def forward(
        ctx: Any,
        factors: Tensor,
        maxima: tuple[Tensor, Tensor],
        gradient: bool,
        src_length: Tensor,
        trg_length: Tensor,
        *maps: Tensor,
    ) -> Tensor:
        src, trg = list(maps[: len(maps) // 2]), list(maps[len(maps) // 2 :])
        scale = SCALE / factors.max().clamp(min=NOTHING)
        factors, (row_max, column_max) = factors * scale, (m * scale for m in maxima)
        products = [s @ t.T for s, t in zip(src[1:], trg[1:], strict=True)]
        turned = [p.T.contiguous() for p in products]
        there = _one_way(src[0], trg[0], products, src_length, trg_length, factors, column_max, gradient)
        back = _one_way(trg[0], src[0], turned, trg_length, src_length, factors.flip(0, 1), row_max, gradient)
        if gradient:
            lengths = [a.add_(b).div_(2) for a, b in zip(there[1:3], back[2:0:-1], strict=True)]
            fine = [a.add_(b).div_(2) for a, b in zip(there[3:5], back[4:2:-1], strict=True)]
            inner = [a.add_(b.T).div_(2) for a, b in zip(there[5:], back[5:], strict=True)]
            of_src = [d @ t for d, t in zip(inner, trg[1:], strict=True)]
            of_trg = [d.T @ s for d, s in zip(inner, src[1:], strict=True)]
            ctx.save_for_backward(*lengths, fine[0], *of_src, fine[1], *of_trg)
        return (there[0] + back[0]) / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(d * grad for d in ctx.saved_tensors)


def _one_way(
    own: Tensor,
    other: Tensor,
    products: list[Tensor],
    own_length: Tensor,
    other_length: Tensor,
    factors: Tensor,
    maxima: Tensor,
    gradient: bool,
) -> list[Tensor]:
    """Mean entropy of the cells of one image, and with `gradient` its gradient for what it is computed from.

    Args:
        own, other: maps N×C of the one and the other image, of side S; own_length, other_length: their lengths N.
        products: for every smaller side h the inner products h²×h² of one with other.
        factors: (2S-1)×(2S-1), of every displacement from one to other; maxima: N, of the other's cells.
    Returns:
        The entropy, then the gradients for own_length, other_length, own, other, and each of products.
    """
    N = len(own)
    S = isqrt(N)
    axis, weight = _read(S, own)
    T = len(axis)
    cells = (axis[:, None] * S + axis).flatten()
    length, short = own_length.clamp(min=SHORTEST)[:, None], other_length[cells]
    fine, far, margin = own / length, other[cells], MARGIN / length
    sides = [isqrt(len(p)) for p in products]
    ups = [interpolation(h, S, own)[axis] for h in sides]
    tables = [
        (up @ p.view(-1, h, h) @ up.T).flatten(1) for up, p, h in zip(ups, products, sides, strict=True)
    ]
    table = torch.cat([*tables, own.new_zeros(1, T * T)])  # at least a row
    extents = tuple((h, 0, h) for h in sides)
    index, row_weight = (x[0] for x in row_taps(1, S, 0, S, extents, own))
    row_weight = row_weight / length
    column = weight / maxima[cells].clamp(min=NOTHING)
    apart = axis - torch.arange(S, device=axis.device)[:, None] + S - 1  # from every own row or column
    windows = factors.sqrt()[:, apart]  # dy, own column, column

    value = own.new_zeros(())
    d_length, d_short = torch.empty_like(own_length), torch.zeros_like(short)
    d_own, d_far, d_table = torch.empty_like(own), torch.zeros_like(far), torch.zeros_like(table)
    columns = own.new_zeros(T * T)  # sums of E
    best = maxima[cells].sqrt() * 0.999  # of roots; what is smaller is not the maximum, rounded otherwise
    place, best_similarity = torch.zeros_like(cells), torch.zeros_like(best)
    depth = max(1, min(S, block_entries(own) // (4 * S * T * T)))
    for y in range(0, S, depth):
        rows = slice(y * S, min(S, y + depth) * S)
        similarity = weighted_sums(table, index[rows], row_weight[rows])
        similarity.addmm_(fine[rows], far.T)
        divisor = short + margin[rows]
        similarity.div_(divisor).clamp_(min=0)
        window = windows[apart[y : y + depth]].transpose(1, 2)
        roots = (similarity.view(-1, S, T, T) * window).view(-1, T * T)
        if gradient:
            top = roots.amax(0)
            found = (top > best).nonzero()[:, 0]
            at = roots[:, found].argmax(0)
            best[found], place[found], best_similarity[found] = top[found], at + y * S, similarity[at, found]
        filtered = roots.pow_(3).square_().mul_(column)
        p = _reduced(filtered.view(-1, T, T)).flatten(1)
        total = p.sum(1, keepdim=True)
        total = torch.where(total < NOTHING, 1, total)
        p = p.div_(total).clamp_(min=NOTHING)
        bits = p.log2()
        entropy = -(p * bits).sum(1, keepdim=True)
        value += entropy.sum()
        if not gradient:
            continue
        inner = bits.add_(entropy).div_(total * (-N / 6)).view(-1, ENTROPY_SIDE, ENTROPY_SIDE)
        E = filtered.mul_(_spread(inner).flatten(1))
        columns += E.sum(0)
        E.div_(divisor)
        d_short -= E.sum(0)
        d_length[rows] = -(E @ short)
        E.div_(similarity.clamp_(min=NOTHING))
        d_own[rows] = E @ far
        d_far.addmm_(E.T, fine[rows])
        bags, who, bag_weight, offsets = _bags(S, y, min(S, y + depth), extents, own)
        bag_weight = bag_weight / length[rows][who, 0]
        d_table.index_add_(
            0, bags, F.embedding_bag(who, E, offsets, per_sample_weights=bag_weight, mode="sum")
        )
    if not gradient:
        return [value / N]
    E = columns / -3 / (short + margin[place, 0])
    E = torch.where(best_similarity > 0, E, 0)
    d_short -= E
    d_length.index_add_(0, place, -(E * short))
    E = E / best_similarity.clamp(min=NOTHING)
    d_own.index_add_(0, place, E[:, None] * far)
    d_far += E[:, None] * fine[place]
    d_table.index_put_(
        (index[place], torch.arange(T * T, device=place.device)[:, None]),
        row_weight[place] * E[:, None],
        accumulate=True,
    )
    d_tables = d_table.view(-1, T, T).split([*(h * h for h in sides), 1])[:-1]
    d_products = [(up.T @ d @ up).flatten(1) for up, d in zip(ups, d_tables, strict=True)]
    d_lengths = d_length / length[:, 0], torch.zeros_like(other_length).index_add_(0, cells, d_short)
    d_other = torch.zeros_like(other).index_add_(0, cells, d_far)
    return [value / N, *d_lengths, d_own / length, d_other, *d_products]


@constant
def _read(S: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """What the reduction reads of S cells along an axis: for each of its places but the last the lower cell, then for
    each but the first the upper one, whose weights are 0 there. The cells' numbers, T, and the weights of T² cells.
    """
    index, _ = linear_taps(S, ENTROPY_SIDE, like)
    reduction = interpolation(S, ENTROPY_SIDE, like)
    place = torch.arange(ENTROPY_SIDE, device=like.device)
    axis = torch.cat([index[:-1, 0], index[1:, 1]])
    weight = torch.cat([reduction[place[:-1], index[:-1, 0]], reduction[place[1:], index[1:, 1]]])
    return axis, torch.outer(weight, weight).flatten()


def _reduced(x: Tensor) -> Tensor:
    """Sums of what is read for each place, n×T×T -> n×R×R."""
    n, R = len(x), ENTROPY_SIDE
    half = x.new_zeros(n, R, 2 * R - 2)
    half[:, :-1] = x[:, : R - 1]
    half[:, 1:] += x[:, R - 1 :]
    whole = x.new_zeros(n, R, R)
    whole[..., :-1] = half[..., : R - 1]
    whole[..., 1:] += half[..., R - 1 :]
    return whole


def _spread(x: Tensor) -> Tensor:
    """The transpose of `_reduced`: n×R×R -> n×T×T."""
    half = torch.cat([x[..., :-1], x[..., 1:]], 2)
    return torch.cat([half[:, :-1], half[:, 1:]], 1)


@constant
def _bags(
    S: int, first: int, last: int, extents: tuple[Extent, ...], like: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The transpose of `row_taps` for the cells of grid rows first..last.

    Returns:
        Which native cells are read; for each a bag of the numbers of the cells, counted from the first, that read it,
        one after the other, and their weights; where each bag begins.
    """
    index, weight = (x[0] for x in row_taps(1, S, first, last, extents, like))
    order = index.flatten().argsort(stable=True)
    native, counts = index.flatten()[order].unique_consecutive(return_counts=True)
    return native, order // max(1, index.shape[1]), weight.flatten()[order], counts.cumsum(0) - counts
