"""Dynamic layer gating and feature transformation: the only trained part (method, section 3, paper section 3.2)."""

import torch
from torch import Tensor, nn

HIDDEN = 32


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

    def transform(self, layer: int, maps: Tensor, index: Tensor | None = None) -> Tensor:
        """Transformed map of one layer, B×C×h×w -> B'×width×h×w.

        `index` (B') repeats or reorders images behind the convolution, so that images which several pairs
        share are convolved once but enter the batch statistics once for each pair.
        """
        conv, norm, relu = self.reduction_ffns[layer].children()
        x = conv(maps)
        return relu(norm(x if index is None else x[index]))

    def forward(self, pooled: tuple[Tensor, ...], noise: Tensor | None = None, soft: bool = False) -> Tensor:
        """Which layers each pair selects.

        Args:
            pooled: for every layer the sum of the two images' global averages, B×C.
            noise: K×B×2 (or more than B) uniform draws in [0, 1) of a training step, drawn here if not given.
            soft: give the probability of selection instead in evaluation.
        Returns:
            B×K of zeros and ones; in training a straight-through Gumbel-softmax sample.
        """
        maps = (p[:, :, None, None] for p in pooled)
        gates = zip(self.gumbel_ffns, maps, strict=True)
        logits = torch.stack([gate(x).flatten(1) for gate, x in gates])  # K×B×2, (skip, select)
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
