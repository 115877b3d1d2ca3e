"""Fast path of section 4: any rows of the N×N appearance matrix, without ever writing it out.

The reference interpolates every map to the grid and takes the product of all cells with all cells. Interpolation is
linear, so it may come last: <(U h)_i, (U h')_j> = Σ_pq U_ip U_jq <h_p, h'_q>. All layers of one side together need one
product of h²×h² native cells, which is then interpolated along its four axes, two of the source and two of the target.

On a grid of 4×4 cells, a map of 2×2 cells A, B, C, D lies so (see `dhpf.model.grid`):

    A  1  2  B        Source cell 1 is 2/3 A + 1/3 B. So its row of the 16×16 matrix is 2/3 of A's row plus 1/3 of B's.
    4  5  6  7        A's row has 4 native products <A, A'>, <A, B'>, <A, C'>, <A, D'>, which lie on the target's grid
    8  9 10 11        as A' to D' do, and are interpolated as a map is. 16 products are computed instead of 256.
    C 13 14  D

>>> from dhpf.model.reference import upsample
>>> s, t = torch.rand(2, 1, 3, 2, 2)  # maps with 3 channels of the two images
>>> matrix = upsample(s, 4)[0].T @ upsample(t, 4)[0]  # as in the reference, 16×16
>>> native = s[0].flatten(1).T @ t[0].flatten(1)  # 4×4
>>> U = interpolation(s, 2, 4)
>>> row = U @ (2 / 3 * native[0] + 1 / 3 * native[1]).view(2, 2) @ U.T
>>> torch.allclose(row.flatten(), matrix[1])
True

`similarity` gives some rows. `blocks` gives all of them, to sum votes or to find maxima, in blocks that stay in the
processor's cache:

                 target rows of the grid
                       top                 1. For a range of target rows, native products are interpolated along the
                ┌───────┼──────┬──────┐       target's axes: `_table` has a row for each native source cell.
      source    │       │      │      │    2. For a block of source rows, a grid cell's row is a weighted sum of some
      rows      ├───────┼──────┼──────┤       rows of the table: `row_taps`. The product of the maps of side S,
          first ┼       │ block│      │       which need no interpolation, is added.
                ├───────┼──────┼──────┤    3. Division by the lengths, and the rectification.
                └───────┴──────┴──────┘
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import isqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dhpf.model.features import ImageFeatures
from dhpf.model.grid import (
    Kind,
    bilinear_taps,
    cat,
    constant,
    interpolation,
    linear_taps,
    pair_numbers,
    use_batched_kernels,
)

COSINE_EPS = 1e-3  # added to the product of two lengths
MIN_LENGTH = 1e-20  # what a length of 0 becomes: nothing beside COSINE_EPS
MAX_PRODUCT_ENTRIES = 2**27  # native products of more entries are computed again for each block
CHUNK = 64  # cells of an axis that are interpolated together, from the few native ones between which they lie


class NativeRows(NamedTuple):
    """Rows of a map of side h: from the first to the one before the end."""

    side: int
    first: int
    end: int


class Block(NamedTuple):
    """Similarities of some grid rows of the source with some of the target, B×rows×S×rows×S, and the first of both."""

    first: int
    top: int
    similarity: Tensor


def block_entries(like: Tensor) -> int:
    """Entries of a block of the matrix: it stays in a processor's cache, or keeps a GPU busy."""
    return 2**26 if use_batched_kernels(like) else 2**19


def table_entries(like: Tensor) -> int:
    """Entries of a table: it stays in a processor's last cache."""
    return 2**23 if use_batched_kernels(like) else 3 * 2**20


def weighted_sums(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows: rows R×M, index and weight n×k -> n×M."""
    offsets = _bag_offsets(rows, *index.shape)
    return F.embedding_bag(index.flatten(), rows, offsets, per_sample_weights=weight.flatten(), mode="sum")


@constant
def _bag_offsets(like: Kind, n: int, k: int) -> Tensor:
    """Where each of n bags of k begins."""
    return torch.arange(0, n * k, k, device=like.device)


@dataclass(frozen=True)
class CorrelationFactors:
    """What the appearance matrices of B pairs are made of.

    src, trg: for every side h of layers that is used, S first, the maps B×h²×C; the layers' weights in both are in the
        source's.
    products: for every smaller side their inner products B×h²×h², without gradient; empty if they would be too large.
    src_length, trg_length: B×S² lengths of the hypercolumns.
    fine_products: inner products B×S²×S² that are at hand, of layers of side S that are not in the maps.
    """

    src: tuple[Tensor, ...]
    trg: tuple[Tensor, ...]
    products: tuple[Tensor, ...]
    src_length: Tensor
    trg_length: Tensor
    fine_products: Tensor | None = None

    def __len__(self) -> int:
        return len(self.src_length)

    def __getitem__(self, pairs: slice) -> "CorrelationFactors":
        """Those of some of the pairs."""
        src, trg, products = (tuple(x[pairs] for x in y) for y in (self.src, self.trg, self.products))
        fine = None if self.fine_products is None else self.fine_products[pairs]
        return CorrelationFactors(src, trg, products, self.src_length[pairs], self.trg_length[pairs], fine)

    @property
    def side(self) -> int:
        """S, the side of the correlation grid."""
        return isqrt(self.src_length.shape[1])

    def similarity(self, cells: Tensor) -> Tensor:
        """Rectified cosines of the hypercolumns of some source cells (y·S + x, B×n) with all target cells, B×n×S²."""
        (B, n), S = cells.shape, self.side
        pair = pair_numbers(self.src_length, B)
        corr = self.src[0][pair, cells] @ self.trg[0].mT
        corr = corr if self.fine_products is None else corr + self.fine_products[pair, cells]
        for k, (s, t) in enumerate(zip(self.src[1:], self.trg[1:], strict=True)):
            h = isqrt(s.shape[1])
            index, weight = row_taps(s, B, S, 0, S, (NativeRows(h, 0, h),))
            taps = index[pair, cells].view(-1, 4), weight[pair, cells].view(-1, 4)
            if self.products and not (torch.is_grad_enabled() and s.requires_grad):
                native = weighted_sums(self.products[k].flatten(0, 1), *taps)
            elif n < h * h:
                native = weighted_sums(s.flatten(0, 1), *taps).view(B, n, -1) @ t.mT
            else:
                native = weighted_sums((s @ t.mT).flatten(0, 1), *taps)
            if torch.is_grad_enabled() or use_batched_kernels(s):
                up = interpolation(s, h, S)
                corr = corr + (up @ native.view(B, n, h, h) @ up.T).flatten(2)
            else:
                index, weight = linear_taps(s, h, S)
                index = index + h * torch.arange(B * n)[:, None, None]
                tall = weighted_sums(native.view(-1, h), index.view(-1, 2), weight.repeat(B * n, 1))
                _add_interpolated(tall, corr.view(-1, S))
        length = self.src_length[pair, cells][..., None] * self.trg_length[:, None]
        return (corr / length.add_(COSINE_EPS)).relu_()

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """`similarity` of all source cells, block by block; iterate where no gradient is recorded.

        Args: start: the first target row.
        """
        B, S, entries = len(self), self.side, block_entries(self.src_length)
        height = max(1, min(S, entries // (B * S * S)))  # target rows of a block
        depth = max(1, min(S, entries // (B * S * S * height)))  # source rows of a block
        # A table for about as many source rows (band) as target rows (tile), which are some blocks'; area: of both.
        area = table_entries(self.src_length) // max(1, sum(B * s.shape[1] for s in self.src[1:]))
        tile = max(height, min(S, isqrt(area)) // height * height)
        band = min(S, max(depth, area // tile))
        length = self.src_length.clamp(min=MIN_LENGTH)[..., None]
        # c / (|s| |t| + eps) = (c / |s|) / (|t| + eps / |s|): so the table's few rows are divided, not every score.
        fine, margin = self.src[0] / length, COSINE_EPS / length
        for lowest, first in product(range(start, S, tile), range(0, S, band)):
            last, highest = min(S, first + band), min(S, lowest + tile)
            table, index, weight = self._table((first, last), (lowest, highest))
            weight = weight / length[:, first * S : last * S]
            for top in range(lowest, highest, height):
                end = min(highest, top + height)
                columns = slice(top * S, end * S)
                fine_columns, length_columns = self.trg[0][:, columns].mT, self.trg_length[:, None, columns]
                part = table[:, (top - lowest) * S : (end - lowest) * S].contiguous()
                for y in range(first, last, depth):
                    here = slice((y - first) * S, (min(last, y + depth) - first) * S)
                    cells = slice(here.start + first * S, here.stop + first * S)
                    taps = (x[:, here].flatten(0, 1) for x in (index, weight))
                    corr = weighted_sums(part, *taps).view(B, here.stop - here.start, -1)
                    corr.baddbmm_(fine[:, cells], fine_columns)
                    if self.fine_products is not None:
                        corr.addcdiv_(self.fine_products[:, cells, columns], length[:, cells])
                    corr.div_(length_columns + margin[:, cells]).clamp_(min=0)
                    yield Block(y, top, corr.view(B, -1, S, end - top, S))

    def _table(self, source: tuple[int, int], target: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Native products interpolated along the target's axes.

        On the 4×4 grid, with layers of side 2 (cells A to D) and of side 3 (a to i), whole images have the table

            row 0   A   <A, (U h')_0>  <A, (U h')_1>  ...  <A, (U h')_15>
                1   B   <B, (U h')_0>  ...                                    Source cell 1 of the grid is
                2   C                                                         2/3 row 0 + 1/3 row 1    (side 2)
                3   D                                                       + 1/3 row 4 + 2/3 row 5    (side 3):
                4   a   <a, (U h')_0>  ...                                    see `row_taps`
                ..
               12   i

        Args:
            source, target: grid rows of the source and of the target, the first and the one behind the last.
        Returns:
            (B·R)×n for R native source cells and n target cells; and of every source cell its rows of that and their
            weights, both B×cells×4·sides.
        """
        B, S, like = len(self), self.side, self.src_length
        tables: list[Tensor] = []
        extents: list[NativeRows] = []
        for k, (s, t) in enumerate(zip(self.src[1:], self.trg[1:], strict=True)):
            h = isqrt(s.shape[1])
            (a, b), (c, d) = (_native_rows(rows, h, S) for rows in (source, target))
            if self.products:
                native = self.products[k][:, a * h : b * h, c * h : d * h]
            else:
                native = s[:, a * h : b * h] @ t[:, c * h : d * h].mT
            native = native.reshape(-1, h)
            wide = native.new_zeros(len(native), S)
            _add_interpolated(native, wide)  # along the target's rows
            taps = _column_taps(like, B * (b - a) * h, h, S, *target, c, d)
            tables.append(weighted_sums(wide, *taps).view(B, (b - a) * h, -1))  # and its columns
            extents.append(NativeRows(h, a, b))
        no_layer = like.new_zeros(B, 1, (target[1] - target[0]) * S)
        table = torch.cat(tables or [no_layer], 1).flatten(0, 1)
        return table, *row_taps(like, B, S, *source, tuple(extents))


def _add_interpolated(native: Tensor, wide: Tensor) -> None:
    """Adds rows of native cells, n×h, interpolated to grid cells, to `wide`, n×S."""
    h, S = native.shape[1], wide.shape[1]
    up = interpolation(native, h, S)
    chunk = S if use_batched_kernels(native) else CHUNK
    for first in range(0, S, chunk):
        low, high = _native_rows((first, min(S, first + chunk)), h, S)
        some = slice(first, first + chunk)
        wide[:, some].addmm_(native[:, low:high], up[some, low:high].T)


def _native_rows(rows: tuple[int, int], h: int, S: int) -> tuple[int, int]:
    """The rows of an h×h map, first and behind the last, that some grid rows are interpolated from."""
    first, last = (y * (h - 1) / (S - 1) for y in (rows[0], rows[1] - 1))
    return max(0, int(first - 0.5)), min(h, int(last + 0.5) + 2)  # however the position is rounded


@constant
def _column_taps(
    like: Kind, count: int, h: int, S: int, top: int, end: int, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """`linear_taps` of the grid rows from `top` in each of `count` stacks of the native rows first..last."""
    index, weight = linear_taps(like, h, S)
    stack = torch.arange(count, device=like.device)[:, None, None] * (last - first)
    return (index[top:end] - first + stack).view(-1, 2), weight[top:end].repeat(count, 1)


@constant
def row_taps(
    like: Kind, B: int, S: int, first: int, last: int, extents: tuple[NativeRows, ...]
) -> tuple[Tensor, Tensor]:
    """Which rows of a table (`CorrelationFactors._table`) each source cell is the weighted sum of.

    A table is a stack, for each of B pairs, of native rows of maps of several sides; four rows of every side are read.

    >>> index, weight = row_taps(torch.zeros(0), 1, 4, 0, 4, (NativeRows(2, 0, 2), NativeRows(3, 0, 3)))
    >>> index[0, 1]  # source cell 1; rows 0 to 3 are of side 2, rows 4 to 12 of side 3
    tensor([0, 1, 2, 3, 4, 5, 7, 8])
    >>> (3 * weight[0, 1]).round()
    tensor([2., 1., 0., 0., 1., 2., 0., 0.])

    Args:
        first, last: the grid rows of the cells, the first and the one behind the last.
    Returns:
        Numbers of rows and their weights, both B×cells×4·sides. Without any side, a table is one row of weight 0.
    """
    index, weight, base = [], [], 0
    for h, a, b in extents:
        i, w = bilinear_taps(like, h, S)
        index.append(i[first * S : last * S] - a * h + base)
        weight.append(w[first * S : last * S])
        base += (b - a) * h
    if not index:
        weight = [torch.zeros((last - first) * S, 1, device=like.device, dtype=like.dtype)]
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
        cells_of_parts = cells.split([len(part) for part in self.parts])
        return cat([part.similarity(c).square() for part, c in zip(self.parts, cells_of_parts, strict=True)])


def correlate(
    src: ImageFeatures, trg: ImageFeatures, selection: Tensor, layers: Tensor, *, floor: float = 0.0
) -> Correlation:
    """Correlation of B image pairs over the layers that each selects.

    Args:
        src, trg: features of B images each.
        selection: B×K weights z of the layers in both maps: 0 or 1, in between with soft gates.
        layers: layer of every channel of the concatenated `maps`, ΣC.
        floor: what a squared length of zero becomes (1e-4 in training).
    """
    squares = selection.square()
    lengths = []
    for features in (src, trg):
        norm = torch.einsum("bk,bkyx->byx", squares, features.norms).flatten(1)
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
    return Correlation(tuple(_factors(_used_channels(sides), s, t) for *sides, s, t in pairs))


SideMaps = tuple[Tensor, Tensor, Tensor]  # of layers of one side: weights of channels, source and target maps


def _used_channels(sides: list[SideMaps]) -> list[SideMaps]:
    """The channels that a pair uses, and the sides that have any; the finest is kept."""
    parts: list[SideMaps] = []
    for weight, src, trg in sides:
        used = weight.detach().flatten().nonzero()[:, 0]
        if 0 < len(used) < weight.numel() or not parts:
            weight, src, trg = weight[..., used], src[..., used], trg[..., used]
        if len(used) or not parts:
            parts.append((weight, src, trg))
    return parts


def _factors(maps: list[SideMaps], src_length: Tensor, trg_length: Tensor) -> CorrelationFactors:
    src, trg = tuple(s * w for w, s, _ in maps), tuple(t for _, _, t in maps)
    products: tuple[Tensor, ...] = ()
    if len(src_length) * sum(s.shape[1] ** 2 for s in src[1:]) <= MAX_PRODUCT_ENTRIES:
        with torch.no_grad():
            products = tuple(s @ t.mT for s, t in zip(src[1:], trg[1:], strict=True))
    return CorrelationFactors(src, trg, products, src_length, trg_length)
