"""Image features: all that comparing an image with another needs of it. Fast path of the lengths in section 4.

The reference interpolates a map to the grid and takes the squared length of each cell's vector. Here maps stay as they
are. An interpolated vector is a weighted sum of its native neighbours, so its squared length is a weighted sum of their
inner products. Along one axis, cell 1 of 4 lies a third of the way from the native vector A to B of a map of side 2:

    A───1───2───B      |2/3 A + 1/3 B|² = 4/9 <A,A> + 1/9 <B,B> + 2·2/9 <A,B>

So a map of side h needs the inner products of each vector with itself, its right, its lower and its two diagonal
neighbours: (2h-1)² numbers for each layer, which are then interpolated. `_norm_weights` holds 4/9, 1/9 and 4/9.

>>> (9 * _norm_weights(torch.zeros(0), 2, 4)[1]).round()
tensor([4., 1., 4.])
"""

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from dhpf.model.grid import Kind, cat, constant, interpolation


def interpolated_norms(maps: Tensor, channels: list[int], side: int) -> Tensor:
    """Squared lengths of every layer's bilinearly interpolated vectors, without interpolating the maps.

    Args:
        maps: B×h×h×C, the concatenated channels of several layers.
        channels: how many of them each of the K layers has.
        side: S, the side of the correlation grid.
    Returns:
        B×K×S×S.
    """
    groups = [(width, len(list(layers))) for width, layers in groupby(channels)]

    def sum_by_layer(products: Tensor) -> Tensor:
        """Sums over each layer's channels, ...×C -> ...×K; layers of equal channels together."""
        parts = products.split([width * count for width, count in groups], -1)
        sums = [
            p.unflatten(-1, (count, width)).sum(-1) for p, (width, count) in zip(parts, groups, strict=True)
        ]
        return cat(sums, -1)

    own = sum_by_layer(maps.square())
    if maps.shape[1] == side:
        return own.permute(0, 3, 1, 2)
    left, right, top, bottom = maps[:, :, :-1], maps[:, :, 1:], maps[:, :-1], maps[:, 1:]
    beside, below = sum_by_layer(left * right), sum_by_layer(top * bottom)
    diagonal = sum_by_layer(torch.addcmul(left[:, :-1] * right[:, 1:], right[:, :-1], left[:, 1:]))
    inner = torch.cat([torch.cat([own, beside], 2), torch.cat([below, diagonal / 2], 2)], 1)
    weights = _norm_weights(maps, maps.shape[1], side)
    return weights @ inner.permute(0, 3, 1, 2) @ weights.T


@constant
def _norm_weights(like: Kind, size: int, side: int) -> Tensor:
    """Weights of inner products along an axis, side×(2·size-1): of vectors with themselves, then with the next."""
    u = interpolation(like, size, side)
    return torch.cat([u * u, 2 * u[:, :-1] * u[:, 1:]], 1)


@dataclass(frozen=True)
class ImageFeatures:
    """A batch of B encoded images.

    maps: for every side h of layers, the transformed maps of those layers, concatenated: B×h×h×C.
    norms: B×K×S×S, squared lengths of every layer's vectors on the correlation grid.
    pooled: the global averages of all layers' untransformed maps, concatenated: B×ΣC.
    model_id: the `DHPF.model_id` of the model that made them; raw: whether it was without its transformation.
    """

    maps: tuple[Tensor, ...]
    norms: Tensor
    pooled: Tensor
    model_id: str
    raw: bool

    def __len__(self) -> int:
        return len(self.norms)

    def __getitem__(self, index: Tensor | slice) -> "ImageFeatures":
        """The features of some of the images."""
        maps = tuple(m[index] for m in self.maps)
        return ImageFeatures(maps, self.norms[index], self.pooled[index], self.model_id, self.raw)

    def to(self, device: torch.device) -> "ImageFeatures":
        maps = tuple(m.to(device) for m in self.maps)
        return ImageFeatures(maps, self.norms.to(device), self.pooled.to(device), self.model_id, self.raw)

    @staticmethod
    def cat(features: "list[ImageFeatures]") -> "ImageFeatures":
        """One batch of several."""
        first = features[0]
        if len(features) == 1:
            return first
        maps = tuple(torch.cat(m) for m in zip(*(f.maps for f in features), strict=True))
        norms, pooled = torch.cat([f.norms for f in features]), torch.cat([f.pooled for f in features])
        return ImageFeatures(maps, norms, pooled, first.model_id, first.raw)

    @property
    def side(self) -> int:
        """S, the side of the correlation grid."""
        return self.norms.shape[-1]

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.maps, self.norms, self.pooled)

    @property
    def nbytes(self) -> int:
        """Memory that the features hold, in bytes."""
        return sum(t.nbytes for t in self.tensors())
