"""Hyperimage correlation: any rows of the N×N appearance matrix, without ever building it (docs/method.md, section 4).

Interpolation is linear, so the sum over layers of the products of interpolated maps is, for each side h of
layers, the native h²×h² product interpolated along its four axes. What is left to do for one block of rows is
four taps along the source axes and one product with an h×S matrix along the target's last axis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dhpf.model.grid import bilinear_taps, interpolation
from dhpf.model.hypercolumn import ImageCode


@dataclass(frozen=True)
class Correlation:
    """Factors of the appearance matrix of B pairs, for the source's S×S cells and a T×T grid of target cells.

    fine: source B×S²×C and target B×T²×C columns, of the maps whose side is S already.
    coarse: for every smaller side h the native correlation with the target's rows interpolated, B×h²×(T·h).
    taps: for every smaller side the four native cells of each source cell and their weights, S²×4.
    widen: for every smaller side the interpolation along the target's columns, h×T.
    src_length, trg_length: B×S² and B×T² lengths of the hypercolumns.
    towards: makes the factors of the same pairs for the rows and columns `axis` of the target grid alone; with
        `reverse`, of target with source.
    """

    fine: tuple[Tensor, Tensor]
    coarse: tuple[Tensor, ...]
    taps: tuple[tuple[Tensor, Tensor], ...]
    widen: tuple[Tensor, ...]
    src_length: Tensor
    trg_length: Tensor
    towards: Callable[[Tensor, bool], "Correlation"]

    def __len__(self) -> int:
        return len(self.src_length)

    def __getitem__(self, pairs: slice) -> "Correlation":
        """The factors of some of the pairs."""
        return Correlation(
            (self.fine[0][pairs], self.fine[1][pairs]),
            tuple(c[pairs] for c in self.coarse),
            self.taps,
            self.widen,
            self.src_length[pairs],
            self.trg_length[pairs],
            lambda axis, reverse: self.towards(axis, reverse)[pairs],
        )

    def appearance(self, cells: Tensor) -> Tensor:
        """Appearance scores of some source cells (indices y·S + x, B×n) with every target cell, B×n×T²."""
        return self.similarity(cells).square()

    def similarity(self, cells: Tensor) -> Tensor:
        """Square roots of the appearance scores: rectified cosines of hypercolumns."""
        (B, n), T = cells.shape, round(self.trg_length.shape[1] ** 0.5)
        pair = torch.arange(B, device=cells.device)[:, None]
        corr = self.fine[0][pair, cells] @ self.fine[1].mT
        for coarse, (index, weight), widen in zip(self.coarse, self.taps, self.widen, strict=True):
            rows = _gather(coarse, index[cells] + pair[:, :, None] * coarse.shape[1], weight[cells])
            corr.view(B, n * T, T).baddbmm_(rows.view(B, n * T, -1), widen.expand(B, -1, -1))
        length = self.src_length[pair, cells][:, :, None] * self.trg_length[:, None]
        length += 1e-3
        if corr.requires_grad:
            return torch.relu(corr / length)
        return corr.div_(length).relu_()  # in place: a block of rows stays in the processor's cache


def _gather(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows: B×R×M, indices into B·R and weights both ...×4 -> (...)×M."""
    flat = rows.flatten(0, 1)
    return F.embedding_bag(index.view(-1, 4), flat, per_sample_weights=weight.view(-1, 4), mode="sum")


def correlate(
    src: ImageCode,
    trg: ImageCode,
    selection: Tensor,
    layers: Tensor,
    *,
    axis: Tensor | None = None,
    floor: float = 0.0,
) -> Correlation:
    """Correlation of B image pairs over the layers that each selects.

    Args:
        src, trg: codes of B images each.
        selection: B×K weights of the layers in both maps: 0 or 1, in between with soft gates.
        layers: layer of every channel of the concatenated `maps`, ΣC.
        axis: the rows, and likewise the columns, of the target grid to restrict it to; all by default.
        floor: what a squared length of zero becomes (1e-4 in training).
    """
    side = src.norms.shape[-1]
    lengths = []
    for code in (src, trg):
        norm = torch.einsum("bk,bkyx->byx", selection.square(), code.norms)
        lengths.append(torch.sqrt(norm + floor * (norm == 0)))
    src_length, trg_length = lengths
    fine: tuple[Tensor, Tensor] | None = None
    coarse, taps, widen = [], [], []
    weights = selection.square()[:, layers].split([m.shape[-1] for m in src.maps], dim=1)
    for s, t, weight in zip(src.maps, trg.maps, weights, strict=True):
        # Asking a GPU which channels some pair uses costs more than multiplying zeros.
        if not weight.is_cuda and not (used := weight.detach().any(0)).all():
            s, t, weight = s[..., used], t[..., used], weight[:, used]
        s = s * weight[:, None, None]  # both maps' weights
        size = s.shape[1]
        if size == side:
            fine = s.flatten(1, 2), (t if axis is None else t[:, axis][:, :, axis]).flatten(1, 2)
            continue
        up = interpolation(size, side, s)
        up = up if axis is None else up[axis]
        native = s.flatten(1, 2) @ t.flatten(1, 2).mT  # B×h²×h²
        coarse.append((up @ native.unflatten(2, (size, size))).flatten(2))
        taps.append(bilinear_taps(size, side, s))
        widen.append(up.T)
    if axis is not None:
        trg_length = trg_length[:, axis][:, :, axis]
    assert fine is not None, "the first layer's map has the side of the correlation grid"

    def towards(axis: Tensor, reverse: bool) -> Correlation:
        ends = (trg, src) if reverse else (src, trg)
        return correlate(*ends, selection, layers, axis=axis, floor=floor)

    factors = tuple(coarse), tuple(taps), tuple(widen)
    return Correlation(fine, *factors, src_length.flatten(1), trg_length.flatten(1), towards)
