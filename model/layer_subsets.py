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
class LayerSum:
    """What some layers of B pairs add up to.

    products: for every side h of the layers, the inner products of their maps, B×h²×h².
    src_norms, trg_norms: squared lengths of the hypercolumns on the correlation grid, B×S×S.
    weights: B×K, 1 for the layers.
    """

    products: Mapping[int, Tensor]
    src_norms: Tensor
    trg_norms: Tensor
    weights: Tensor

    def __add__(self, other: "LayerSum") -> "LayerSum":
        products = dict(self.products)
        for side, product in other.products.items():
            products[side] = products[side] + product if side in products else product
        src_norms, trg_norms = self.src_norms + other.src_norms, self.trg_norms + other.trg_norms
        return LayerSum(products, src_norms, trg_norms, self.weights + other.weights)

    def matches(self, voting: str, decoder: str = "cells") -> Matches:
        """What `DHPF.compare` gives where every pair selects these layers; keys of `VOTINGS` and `DECODERS`."""
        S = self.src_norms.shape[-1]
        coarse = {side: product for side, product in self.products.items() if side != S}
        src_length, trg_length = (x.sqrt().flatten(1) for x in (self.src_norms, self.trg_norms))
        # Maps without channels: all that they would give is in the products.
        maps = tuple(src_length.new_zeros(len(src_length), side * side, 0) for side in (S, *coarse))
        factors = CorrelationFactors(
            maps, maps, tuple(coarse.values()), src_length, trg_length, self.products.get(S)
        )
        return Matches(self.weights, self.weights, VOTINGS[voting](Correlation((factors,))), decoder)


def layer_sums(src: ImageFeatures, trg: ImageFeatures, layers: Tensor) -> list[LayerSum]:
    """Each layer of B pairs alone.

    Args:
        src, trg: features of B images each.
        layers: layer of every channel of the concatenated `maps`, ΣC.
    """
    maps = [(s.flatten(1, 2), t.flatten(1, 2)) for s, t in zip(src.maps, trg.maps, strict=True)]
    layers_of_sides = layers.split([s.shape[-1] for s, _ in maps])
    weights = torch.eye(src.norms.shape[1], device=layers.device).expand(len(src), -1, -1)
    sums = []
    for (s, t), side, owners in zip(maps, (m.shape[1] for m in src.maps), layers_of_sides, strict=True):
        numbers, channels = owners.unique_consecutive(return_counts=True)
        parts = zip(s.split(channels.tolist(), -1), t.split(channels.tolist(), -1), strict=True)
        for layer, (a, b) in zip(numbers.tolist(), parts, strict=True):
            sums.append(
                LayerSum({side: a @ b.mT}, src.norms[:, layer], trg.norms[:, layer], weights[:, layer])
            )
    return sums
