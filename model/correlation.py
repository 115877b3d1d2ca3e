"""Hyperimage correlation: any rows of the N×N appearance matrix, without ever building it (method, section 4).

Interpolation is linear, so the sum over layers of the products of interpolated maps is, for each side h of layers, the
native h²×h² product interpolated along its four axes. For a block of target cells the target's two come first, into a
table of native source cells; a source cell's row is then a weighted sum of four of the table's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from dhpf.model.features import ImageFeatures
from dhpf.model.grid import (
    bilinear_taps,
    cat,
    constant,
    interpolation,
    linear_taps,
    pairs,
    use_batched_kernels,
)

MARGIN = 1e-3  # added to the product of two lengths
SHORTEST = 1e-20  # a length that is nothing beside the margin
PRODUCTS = 2**26  # entries of native products that are kept
TABLE = 2**23  # entries of a table


Extent = tuple[int, int, int]  # a side h, the first native row, the row behind the last
Block = tuple[int, int, Tensor]  # a first source row, a first target row, similarities B×rows×S×rows×S


def block_entries(like: Tensor) -> int:
    """Entries of a block of the matrix: it stays in a processor's cache, or keeps a GPU busy."""
    return 2**26 if use_batched_kernels(like) else 2**19


def weighted_sums(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows: rows R×M, index and weight n×k -> n×M."""
    n, k = index.shape
    return F.embedding_bag(
        index.flatten(), rows, bags(n, k, rows), per_sample_weights=weight.flatten(), mode="sum"
    )


@constant
def bags(n: int, k: int, like: Tensor) -> Tensor:
    """Where each of n bags of k begins."""
    return torch.arange(0, n * k, k, device=like.device)


@dataclass(frozen=True)
class CorrelationFactors:
    """What the appearance matrices of B pairs are made of.

    src, trg: for every side h of layers that is used, S first, the maps B×h²×C; the layers' weights in both are in the
        source's.
    products: for every smaller side their inner products B×h²×h², without gradient; empty if they would be too large.
    src_length, trg_length: B×S² lengths of the hypercolumns.
    fine: inner products B×S²×S² that are at hand, of layers of side S that are not in the maps.
    """

    src: tuple[Tensor, ...]
    trg: tuple[Tensor, ...]
    products: tuple[Tensor, ...]
    src_length: Tensor
    trg_length: Tensor
    fine: Tensor | None = None

    def __len__(self) -> int:
        return len(self.src_length)

    def __getitem__(self, pairs: slice) -> "CorrelationFactors":
        """Those of some of the pairs."""
        src, trg, products = (tuple(x[pairs] for x in y) for y in (self.src, self.trg, self.products))
        fine = None if self.fine is None else self.fine[pairs]
        return CorrelationFactors(src, trg, products, self.src_length[pairs], self.trg_length[pairs], fine)

    @property
    def side(self) -> int:
        """S, the side of the correlation grid."""
        return isqrt(self.src_length.shape[1])

    def similarity(self, cells: Tensor) -> Tensor:
        """Rectified cosines of the hypercolumns of some source cells (y·S + x, B×n) with all target cells, B×n×S²."""
        (B, n), S = cells.shape, self.side
        pair = pairs(B, self.src_length)
        corr = self.src[0][pair, cells] @ self.trg[0].mT
        corr = corr if self.fine is None else corr + self.fine[pair, cells]
        for k, (s, t) in enumerate(zip(self.src[1:], self.trg[1:], strict=True)):
            h = isqrt(s.shape[1])
            index, weight = row_taps(B, S, 0, S, ((h, 0, h),), s)
            taps = index[pair, cells].view(-1, 4), weight[pair, cells].view(-1, 4)
            if self.products and not (torch.is_grad_enabled() and s.requires_grad):
                native = weighted_sums(self.products[k].flatten(0, 1), *taps)
            elif n < h * h:
                native = weighted_sums(s.flatten(0, 1), *taps).view(B, n, -1) @ t.mT
            else:
                native = weighted_sums((s @ t.mT).flatten(0, 1), *taps)
            up = interpolation(h, S, s)
            corr = corr + (up @ native.view(B, n, h, h) @ up.T).flatten(2)
        length = self.src_length[pair, cells][..., None] * self.trg_length[:, None]
        return torch.relu(corr / (length + MARGIN))

    def blocks(self) -> Iterator[Block]:
        """`similarity` of all source cells, by blocks of rows of either grid; iterate where no gradient is recorded."""
        B, S, entries = len(self), self.side, block_entries(self.src_length)
        height = max(1, min(S, entries // (B * S * S)))  # target rows of a block
        depth = max(1, min(S, entries // (B * S * S * height)))  # source rows of a block
        native = max(1, sum(B * s.shape[1] * height * S for s in self.src[1:]))
        band = min(S, max(depth, S * TABLE // native))  # source rows of a table
        length = self.src_length.clamp(min=SHORTEST)[..., None]
        # Scores are divided by the target's length alone.
        fine, margin = self.src[0] / length, MARGIN / length
        for top in range(0, S, height):
            end = min(S, top + height)
            columns = slice(top * S, end * S)
            fine_columns, length_columns = self.trg[0][:, columns].mT, self.trg_length[:, None, columns]
            for first in range(0, S, band):
                last = min(S, first + band)
                table, index, weight = self._table((first, last), (top, end))
                weight = weight / length[:, first * S : last * S]
                for y in range(first, last, depth):
                    here = slice((y - first) * S, (min(last, y + depth) - first) * S)
                    cells = slice(here.start + first * S, here.stop + first * S)
                    taps = (x[:, here].flatten(0, 1) for x in (index, weight))
                    corr = weighted_sums(table, *taps).view(B, here.stop - here.start, -1)
                    corr.baddbmm_(fine[:, cells], fine_columns)
                    if self.fine is not None:
                        corr.addcdiv_(self.fine[:, cells, columns], length[:, cells])
                    corr.div_(length_columns + margin[:, cells]).clamp_(min=0)
                    yield y, top, corr.view(B, -1, S, end - top, S)

    def _table(self, source: tuple[int, int], target: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Native products interpolated along the target's axes, for grid rows (first, behind the last) of either image.

        Returns:
            (B·R)×n for R native source cells and n target cells; and of every source cell its rows of that and their
            weights, both B×cells×4·sides.
        """
        B, S, like = len(self), self.side, self.src_length
        tables: list[Tensor] = []
        extents: list[Extent] = []
        for k, (s, t) in enumerate(zip(self.src[1:], self.trg[1:], strict=True)):
            h = isqrt(s.shape[1])
            (a, b), (c, d) = (_native_rows(rows, h, S) for rows in (source, target))
            if self.products:
                native = self.products[k][:, a * h : b * h, c * h : d * h]
            else:
                native = s[:, a * h : b * h] @ t[:, c * h : d * h].mT
            wide = native.reshape(-1, h) @ interpolation(h, S, like).T
            taps = _column_taps(B * (b - a) * h, h, S, *target, c, d, like)
            tables.append(weighted_sums(wide, *taps).view(B, (b - a) * h, -1))
            extents.append((h, a, b))
        nothing = like.new_zeros(B, 1, (target[1] - target[0]) * S)
        return torch.cat(tables or [nothing], 1).flatten(0, 1), *row_taps(B, S, *source, tuple(extents), like)


def _native_rows(rows: tuple[int, int], h: int, S: int) -> tuple[int, int]:
    """The rows of an h×h map, first and behind the last, that some grid rows are interpolated from."""
    first, last = (y * (h - 1) / (S - 1) for y in (rows[0], rows[1] - 1))
    return max(0, int(first - 0.5)), min(h, int(last + 0.5) + 2)  # however the place is rounded


@constant
def _column_taps(
    count: int, h: int, S: int, top: int, end: int, first: int, last: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """`linear_taps` of the grid rows from `top` in each of `count` stacks of the native rows first..last."""
    index, weight = linear_taps(h, S, like)
    stack = torch.arange(count, device=like.device)[:, None, None] * (last - first)
    return (index[top:end] - first + stack).view(-1, 2), weight[top:end].repeat(count, 1)


@constant
def row_taps(
    B: int, S: int, first: int, last: int, extents: tuple[Extent, ...], like: Tensor
) -> tuple[Tensor, Tensor]:
    """`bilinear_taps` of the cells of grid rows first..last into one stack, for each of B pairs, of native rows.

    Returns:
        B×cells×4·sides, both. Without any side, a stack is one row of weight 0.
    """
    index, weight, base = [], [], 0
    for h, a, b in extents:
        i, w = bilinear_taps(h, S, like)
        index.append(i[first * S : last * S] - a * h + base)
        weight.append(w[first * S : last * S])
        base += (b - a) * h
    if not index:
        weight = [like.new_zeros((last - first) * S, 1)]
        index, base = [weight[0].long()], 1
    pair = torch.arange(B, device=like.device)[:, None, None] * base
    return torch.cat(index, 1) + pair, torch.cat(weight, 1).expand(B, -1, -1)


@dataclass(frozen=True)
class Correlation:
    """The appearance matrices of B pairs, in parts of some pairs each."""

    parts: tuple[CorrelationFactors, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, pairs: slice) -> "Correlation":
        """The correlation of some of the pairs."""
        if len(self.parts) == 1:
            return Correlation((self.parts[0][pairs],))
        return Correlation(self.parts[pairs])  # each is one pair

    @property
    def cells(self) -> Tensor:
        """The numbers of all source cells, B×N."""
        length = self.parts[0].src_length
        return torch.arange(length.shape[1], device=length.device).expand(len(self), -1)

    def appearance(self, cells: Tensor) -> Tensor:
        """Appearance scores of some source cells (numbers y·S + x, B×n) with all target cells, B×n×N."""
        some = cells.split([len(part) for part in self.parts])
        rows = [part.similarity(c).square() for part, c in zip(self.parts, some, strict=True)]
        return cat(rows)


def correlate(
    src: ImageFeatures, trg: ImageFeatures, selection: Tensor, layers: Tensor, *, floor: float = 0.0
) -> Correlation:
    """Correlation of B image pairs over the layers that each selects.

    Args:
        src, trg: codes of B images each.
        selection: B×K weights of the layers in both maps: 0 or 1, in between with soft gates.
        layers: layer of every channel of the concatenated `maps`, ΣC.
        floor: what a squared length of zero becomes (1e-4 in training).
    """
    squares = selection.square()
    lengths = []
    for code in (src, trg):
        norm = torch.einsum("bk,bkyx->byx", squares, code.norms).flatten(1)
        lengths.append(torch.sqrt(norm + floor * (norm == 0) if floor else norm))
    weights = squares[:, layers].split([m.shape[-1] for m in src.maps], dim=1)
    maps = [
        (w[:, None], s.flatten(1, 2), t.flatten(1, 2))
        for w, s, t in zip(weights, src.maps, trg.maps, strict=True)
    ]
    if use_batched_kernels(squares):
        return Correlation((_factors(maps, *lengths),))
    # One by one: splitting has a cheaper gradient than indexing.
    pairs = zip(
        *(zip(*(x.split(1) for x in side), strict=True) for side in maps),
        *(x.split(1) for x in lengths),
        strict=True,
    )
    return Correlation(tuple(_factors(_used(sides), s, t) for *sides, s, t in pairs))


Side = tuple[Tensor, Tensor, Tensor]  # of some pairs: weights of channels, source and target maps


def _used(sides: list[Side]) -> list[Side]:
    """The channels that a pair uses, and the sides that have any; the finest is kept."""
    parts: list[Side] = []
    for weight, src, trg in sides:
        used = weight.detach().flatten().nonzero()[:, 0]
        if 0 < len(used) < weight.numel() or not parts:
            weight, src, trg = weight[..., used], src[..., used], trg[..., used]
        if len(used) or not parts:
            parts.append((weight, src, trg))
    return parts


def _factors(maps: list[Side], src_length: Tensor, trg_length: Tensor) -> CorrelationFactors:
    src, trg = tuple(s * w for w, s, _ in maps), tuple(t for _, _, t in maps)
    products: tuple[Tensor, ...] = ()
    if len(src_length) * sum(s.shape[1] ** 2 for s in src[1:]) <= PRODUCTS:
        with torch.no_grad():
            products = tuple(s @ t.mT for s, t in zip(src[1:], trg[1:], strict=True))
    return CorrelationFactors(src, trg, products, src_length, trg_length)
