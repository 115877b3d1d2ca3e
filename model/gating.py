"""Dynamic layer gating and feature transformation: the only trained part (method, section 3, paper section 3.2)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dhpf.model.grid import cat, use_batched_kernels

HIDDEN = 32


@dataclass(frozen=True)
class LayerGroup:
    """n layers that follow each other and have equal channels and widths, for evaluation: batch norms are folded.

    weight, shift: of the transformations, n·width×C×1×1 and n·width.
    gate: of the gates, n×C×32, n×1×32 and n×32×2.
    """

    count: int
    weight: Tensor
    shift: Tensor
    gate: tuple[Tensor, Tensor, Tensor]


class DynamicGating(nn.Module):
    """For each of K hyperpixel layers a transformation and a gate.

    The state dict of this module is the published checkpoint's: keys `reduction_ffns.{l}.{0,1}.*` and
    `gumbel_ffns.{l}.{0,1,3}.*`.
    """

    def __init__(self, channels: tuple[int, ...], widths: tuple[int, ...]) -> None:
        """`channels` of every layer's map, `widths` after the transformation."""
        super().__init__()
        self.reduction_ffns = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, w, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU())
            for c, w in zip(channels, widths, strict=True)
        )
        self.gumbel_ffns = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, HIDDEN, 1, bias=False),
                nn.BatchNorm2d(HIDDEN),
                nn.ReLU(),
                nn.Conv2d(HIDDEN, 2, 1, bias=False),
            )
            for c in channels
        )
        self.channels = channels
        self.runs = [
            list(run) for _, run in groupby(range(len(channels)), key=lambda k: (channels[k], widths[k]))
        ]
        self._folded: tuple[list[tuple[int, int]], list[LayerGroup]] | None = None

    @property
    def folded(self) -> list[LayerGroup]:
        """All layers for evaluation: made once, and again when a tensor of this module is another or was written to."""
        if self._folded is not None and torch.compiler.is_compiling():
            return self._folded[1]
        ffns: Iterable[Any] = chain(self.reduction_ffns, self.gumbel_ffns)
        modules = chain.from_iterable(ffns)  # parameters() and buffers() would take a tenth of a pair's time
        tensors = chain.from_iterable((*m._parameters.values(), *m._buffers.values()) for m in modules)
        state = [(t.data_ptr(), t._version) for t in tensors if t is not None]
        if self._folded is None or self._folded[0] != state:
            self._folded = state, [self._fold(run) for run in self.runs]
        return self._folded[1]

    def _fold(self, layers: list[int]) -> LayerGroup:
        transformations: list[Any] = [self.reduction_ffns[k] for k in layers]
        gates: list[Any] = [self.gumbel_ffns[k] for k in layers]
        weight, shift = _without_norms(transformations)
        first, gate_shift = _without_norms(gates)
        last = torch.stack([gate[3].weight.detach().flatten(1).T for gate in gates])
        gate = first.flatten(2).mT.contiguous(), gate_shift[:, None], last
        return LayerGroup(len(layers), weight.flatten(0, 1), shift.flatten(), gate)

    @property
    def _evaluates(self) -> bool:
        """Whether `folded` is what computes: it has no gradient."""
        return not (self.training or torch.is_grad_enabled())

    def transform(self, layer: int, maps: Tensor, index: Tensor | None = None) -> Tensor:
        """Transformed map of one layer in training, B×C×h×w -> B'×width×h×w; `index` as in `transformed`."""
        conv, norm, relu = self.reduction_ffns[layer].children()
        x = conv(maps)
        return relu(norm(x if index is None else x[index]))

    def transformed(
        self, maps: Iterable[Tensor], index: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The maps of all layers, each B×C×h×h, beside what they are transformed to, B'×width×h×h.

        A GPU gets layers that are alike together, as B×n·C×h×h and B'×n·width×h×h; a processor reads each map while
        its cache still holds it.

        Args:
            index: B', repeats or reorders images behind the convolution, so that images which several pairs share are
                convolved once but enter the batch statistics once for each pair.
        """
        if not self._evaluates:
            yield from ((m, self.transform(k, m, index)) for k, m in enumerate(maps))
            return
        layers = iter(maps)
        for run in self.folded:
            width, first = len(run.shift) // run.count, 0
            own = islice(layers, run.count)
            stacks: Iterable[list[Tensor]] = ([m] for m in own)
            if use_batched_kernels(run.weight):
                stacks = [list(stack) for _, stack in groupby(list(own), key=lambda m: m.shape[2])]
            for stack in stacks:
                x, n = cat(stack, 1), len(stack)
                part = slice(first * width, (first + n) * width)
                y = F.conv2d(x, run.weight[part], run.shift[part], groups=n).relu_()
                yield x, y if index is None else y[index]
                first += n

    def forward(self, pooled: Tensor, noise: Tensor | None = None, soft: bool = False) -> Tensor:
        """Which layers each pair selects.

        Args:
            pooled: the sums of the two images' global averages of all layers' channels, B×ΣC.
            noise: K×B×2 (or more than B) uniform draws in [0, 1) of a training step, drawn here if not given.
            soft: give the probability of selection instead in evaluation.
        Returns:
            B×K of zeros and ones; in training a straight-through Gumbel-softmax sample.
        """
        logits = self._logits(pooled)
        if not self.training:
            if soft:
                return torch.softmax(logits, dim=-1)[..., 1].T
            return (logits[..., 1] > logits[..., 0]).to(logits.dtype).T
        if noise is None:
            noise = torch.rand_like(logits)
        gumbel = -torch.log(1e-10 - torch.log(noise[:, : logits.shape[1]] + 1e-10))
        chance = torch.softmax(logits + gumbel, dim=-1)[..., 1]
        hard = (chance > 0.5).to(chance.dtype)
        return (hard + (chance - chance.detach())).T

    def _logits(self, pooled: Tensor) -> Tensor:
        """Of all layers, K×B×2: (skip, select)."""
        if not self._evaluates:
            layers = zip(self.gumbel_ffns, pooled.split(self.channels, 1), strict=True)
            return torch.stack([gate(x[:, :, None, None]).flatten(1) for gate, x in layers])
        parts = pooled.split([sum(self.channels[k] for k in run) for run in self.runs], 1)
        logits = []
        for run, x in zip(self.folded, parts, strict=True):
            weight, shift, last = run.gate
            x = x.unflatten(1, (run.count, -1)).transpose(0, 1)
            logits.append(torch.baddbmm(shift, x, weight).relu_() @ last)
        return cat(logits)


@torch.no_grad()
def _without_norms(ffns: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """The first convolutions of some layers with the batch norms behind them: n×width×C×1×1 and n×width."""
    folded = [
        fuse_conv_bn_weights(
            conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        for conv, norm, *_ in ffns
    ]
    weights, shifts = zip(*folded, strict=True)
    return torch.stack(weights), torch.stack(shifts)
