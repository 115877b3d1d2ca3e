"""Static subsets of hyperpixel layers, compared as sums of their layers (docs/search.md).

Numerator and squared lengths of the appearance are sums over layers (method, section 4): a subset with one layer more
than another costs that layer's product, at the layer's own side.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dhpf.model import VOTINGS
from dhpf.model.correlation import Correlation, CorrelationFactors
from dhpf.model.dhpf import Matches
from dhpf.model.features import ImageFeatures


@dataclass(frozen=True)
class Sum:
    """What some layers of B pairs add up to.

    products: for every side h of the layers, the inner products of their maps, B×h²×h².
    src, trg: squared lengths of the hypercolumns on the correlation grid, B×S×S.
    weights: B×K, 1 for the layers.
    """

    products: Mapping[int, Tensor]
    src: Tensor
    trg: Tensor
    weights: Tensor

    def __add__(self, other: "Sum") -> "Sum":
        products = dict(self.products)
        for side, product in other.products.items():
            products[side] = products[side] + product if side in products else product
        return Sum(products, self.src + other.src, self.trg + other.trg, self.weights + other.weights)

    def matches(self, voting: str) -> Matches:
        """What `DHPF.compare` gives where every pair selects these layers; `voting` is a key of `VOTINGS`."""
        S = self.src.shape[-1]
        coarse = {side: product for side, product in self.products.items() if side != S}
        src, trg = (x.sqrt().flatten(1) for x in (self.src, self.trg))
        # Maps without channels: all that they would give is in the products.
        maps = tuple(self.src.new_zeros(len(self.src), side * side, 0) for side in (S, *coarse))
        factors = CorrelationFactors(maps, maps, tuple(coarse.values()), src, trg, self.products.get(S))
        return Matches(self.weights, self.weights, VOTINGS[voting](Correlation((factors,))))


def layer_sums(src: ImageFeatures, trg: ImageFeatures, layers: Tensor) -> list[Sum]:
    """Each layer of B pairs alone.

    Args:
        src, trg: codes of B images each.
        layers: layer of every channel of the concatenated `maps`, ΣC.
    """
    maps = [(s.flatten(1, 2), t.flatten(1, 2)) for s, t in zip(src.maps, trg.maps, strict=True)]
    owners = layers.split([s.shape[-1] for s, _ in maps])
    weights = torch.eye(src.norms.shape[1], device=layers.device).expand(len(src), -1, -1)
    sums = []
    for (s, t), side, owner in zip(maps, (m.shape[1] for m in src.maps), owners, strict=True):
        numbers, widths = owner.unique_consecutive(return_counts=True)
        parts = zip(s.split(widths.tolist(), -1), t.split(widths.tolist(), -1), strict=True)
        for layer, (a, b) in zip(numbers.tolist(), parts, strict=True):
            lengths = src.norms[:, layer], trg.norms[:, layer]
            sums.append(Sum({side: a @ b.mT}, *lengths, weights[:, layer]))
    return sums
