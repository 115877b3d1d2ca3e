"""Dynamic layer gating and feature transformation: the only trained part (method, section 3, paper section 3.2).

Training runs the modules as they are. Evaluation takes a fast path: batch norms are constants then, so each is folded
into the convolution before it, and layers of equal channels which follow each other become one `LayerGroup`:

    training       maps of layer 1 ─▶ conv ─▶ norm ─▶ relu        evaluation     maps of    one convolution
                   maps of layer 2 ─▶ conv ─▶ norm ─▶ relu                       layers ─▶  in 3 groups, with ─▶ relu
                   maps of layer 3 ─▶ conv ─▶ norm ─▶ relu                       1, 2, 3    the norms in it
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dhpf.model.grid import cat, use_batched_kernels

GATE_CHANNELS = 32  # of a gate's hidden layer


@dataclass(frozen=True)
class LayerGroup:
    """n layers that follow each other and have equal channels before (C) and after (C') the transformation.

    weight, shift: of their transformations with batch norms folded in, n·C'×C×1×1 and n·C'.
    gate: of their gates likewise, n×C×32, n×1×32 and n×32×2.
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

    def __init__(self, channels: tuple[int, ...], reduced_channels: tuple[int, ...]) -> None:
        """`channels` of every layer's map, `reduced_channels` after the transformation."""
        super().__init__()
        self.reduction_ffns = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, r, 1, bias=False), nn.BatchNorm2d(r), nn.ReLU())
            for c, r in zip(channels, reduced_channels, strict=True)
        )
        self.gumbel_ffns = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, GATE_CHANNELS, 1, bias=False),
                nn.BatchNorm2d(GATE_CHANNELS),
                nn.ReLU(),
                nn.Conv2d(GATE_CHANNELS, 2, 1, bias=False),
            )
            for c in channels
        )
        self.channels = channels
        alike = groupby(range(len(channels)), key=lambda k: (channels[k], reduced_channels[k]))
        self.alike = [list(layers) for _, layers in alike]  # layers of each group
        self._folded: list[LayerGroup] | None = None
        self.register_load_state_dict_post_hook(drop_folded)

    def folded(self) -> list[LayerGroup]:
        """All layers for evaluation, folded at first use.

        They are folded anew after training, loading, moving and any pass with gradient. Who writes to a parameter
        otherwise calls `train()` first.
        """
        if self._folded is None:
            self._folded = [self._fold(layers) for layers in self.alike]
        return self._folded

    def train(self, mode: bool = True) -> "DynamicGating":
        if mode:
            drop_folded(self)
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> "DynamicGating":
        drop_folded(self)
        return super()._apply(*args, **kwargs)

    def _fold(self, layers: list[int]) -> LayerGroup:
        transformations: list[Any] = [self.reduction_ffns[k] for k in layers]
        gates: list[Any] = [self.gumbel_ffns[k] for k in layers]
        weight, shift = _without_norms(transformations)
        first, gate_shift = _without_norms(gates)
        last = torch.stack([gate[3].weight.detach().flatten(1).T for gate in gates])
        gate = first.flatten(2).mT.contiguous(), gate_shift[:, None], last
        return LayerGroup(len(layers), weight.flatten(0, 1), shift.flatten(), gate)

    def _uses_folded(self) -> bool:
        """Whether the fast path computes: in evaluation, without gradient."""
        if self.training or torch.is_grad_enabled():
            drop_folded(self)  # an optimiser may take a step after a pass with gradient
            return False
        return True

    def transform(self, layer: int, maps: Tensor, index: Tensor | None = None) -> Tensor:
        """Transformed map of one layer in training, B×C×h×w -> B'×C'×h×w; `index` as in `transformed`."""
        conv, norm, relu = self.reduction_ffns[layer].children()
        x = conv(maps)
        return relu(norm(x if index is None else x[index]))

    def transformed(
        self, maps: Iterable[Tensor], index: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The maps of all layers, each B×C×h×h, beside what they are transformed to, B'×C'×h×h.

        A GPU gets layers that are alike together, as B×n·C×h×h and B'×n·C'×h×h; a processor reads each map while
        its cache still holds it.

        Args:
            index: B', repeats or reorders images behind the convolution, so that images which several pairs share are
                convolved once but enter the batch statistics once for each pair.
        """
        if not self._uses_folded():
            yield from ((m, self.transform(k, m, index)) for k, m in enumerate(maps))
            return
        all_maps = iter(maps)
        for group in self.folded():
            reduced, first = len(group.shift) // group.count, 0
            own = islice(all_maps, group.count)
            stacks: Iterable[list[Tensor]] = ([m] for m in own)
            if use_batched_kernels(group.weight):
                stacks = [list(stack) for _, stack in groupby(list(own), key=lambda m: m.shape[2])]
            for stack in stacks:
                x, n = cat(stack, 1), len(stack)
                part = slice(first * reduced, (first + n) * reduced)
                y = F.conv2d(x, group.weight[part], group.shift[part], groups=n).relu_()
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
        y = torch.softmax(logits + gumbel, dim=-1)[..., 1]
        hard = (y > 0.5).to(y.dtype)
        return (hard + (y - y.detach())).T  # straight-through: the value of one, the gradient of the other

    def _logits(self, pooled: Tensor) -> Tensor:
        """Of all layers, K×B×2: (skip, select)."""
        if not self._uses_folded():
            layers = zip(self.gumbel_ffns, pooled.split(self.channels, 1), strict=True)
            return torch.stack([gate(x[:, :, None, None]).flatten(1) for gate, x in layers])
        parts = pooled.split([sum(self.channels[k] for k in layers) for layers in self.alike], 1)
        logits = []
        for group, x in zip(self.folded(), parts, strict=True):
            weight, shift, last = group.gate
            x = x.unflatten(1, (group.count, -1)).transpose(0, 1)
            logits.append(torch.baddbmm(shift, x, weight).relu_() @ last)
        return cat(logits)


def drop_folded(learner: DynamicGating, *_: object) -> None:
    """Forget the folded copy of weights that change. A function of the module, as hooks are, so that it is pickled."""
    learner._folded = None


@torch.no_grad()
def _without_norms(ffns: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """The first convolutions of some layers with the batch norms behind them: n×C'×C×1×1 and n×C'."""
    folded = [
        fuse_conv_bn_weights(
            conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        for conv, norm, *_ in ffns
    ]
    weights, shifts = zip(*folded, strict=True)
    return torch.stack(weights), torch.stack(shifts)
