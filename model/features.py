"""Image features: all that comparing an image with another needs of it."""

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from dhpf.model.grid import cat, constant, interpolation


def interpolated_norms(maps: Tensor, widths: list[int], side: int) -> Tensor:
    """Squared norms of every layer's bilinearly interpolated vectors, without interpolating the maps.

    An interpolated vector is a weighted sum of its 2×2 neighbours, so its squared norm is a weighted sum of
    their inner products: of each cell with itself, its right, its lower and its two diagonal neighbours.

    Args:
        maps: B×h×h×C, the concatenated channels of several layers.
        widths: how many of them each of the K layers has.
        side: S, the side of the correlation grid.
    Returns:
        B×K×S×S.
    """
    runs = [(width, len(list(run))) for width, run in groupby(widths)]

    def by_layer(products: Tensor) -> Tensor:
        parts = products.split([width * count for width, count in runs], -1)
        sums = [
            p.unflatten(-1, (count, width)).sum(-1) for p, (width, count) in zip(parts, runs, strict=True)
        ]
        return cat(sums, -1)

    own = by_layer(maps.square())
    if maps.shape[1] == side:
        return own.permute(0, 3, 1, 2)
    left, right, top, bottom = maps[:, :, :-1], maps[:, :, 1:], maps[:, :-1], maps[:, 1:]
    beside, below = by_layer(left * right), by_layer(top * bottom)
    diagonal = by_layer(torch.addcmul(left[:, :-1] * right[:, 1:], right[:, :-1], left[:, 1:]))
    inner = torch.cat([torch.cat([own, beside], 2), torch.cat([below, diagonal / 2], 2)], 1).permute(
        0, 3, 1, 2
    )
    share = _shares(maps.shape[1], side, maps)
    return share @ inner @ share.T


@constant
def _shares(size: int, side: int, like: Tensor) -> Tensor:
    """What inner products along an axis count for: a native place with itself, and twice with the next, S×(2h-1)."""
    u = interpolation(size, side, like)
    return torch.cat([u * u, 2 * u[:, :-1] * u[:, 1:]], 1)


@dataclass(frozen=True)
class ImageFeatures:
    """A batch of B encoded images.

    maps: for every side h of layers, the transformed maps of those layers, concatenated: B×h×h×C.
    norms: B×K×S×S, squared norms of every layer's vectors on the correlation grid.
    pooled: the global averages of all layers' untransformed maps, concatenated: B×ΣC.
    origin: side of the frame, kind of features and model that the features is of, in words.
    """

    maps: tuple[Tensor, ...]
    norms: Tensor
    pooled: Tensor
    origin: str

    def __len__(self) -> int:
        return len(self.norms)

    def __getitem__(self, index: Tensor | slice) -> "ImageFeatures":
        """The features of some of the images."""
        return ImageFeatures(
            tuple(m[index] for m in self.maps), self.norms[index], self.pooled[index], self.origin
        )

    @staticmethod
    def cat(features: "list[ImageFeatures]") -> "ImageFeatures":
        """One batch of several."""
        if len(features) == 1:
            return features[0]
        maps = tuple(torch.cat(m) for m in zip(*(c.maps for c in features), strict=True))
        norms, pooled = torch.cat([c.norms for c in features]), torch.cat([c.pooled for c in features])
        return ImageFeatures(maps, norms, pooled, features[0].origin)

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.maps, self.norms, self.pooled)

    @property
    def nbytes(self) -> int:
        """Memory that the features holds, in bytes."""
        return sum(t.nbytes for t in self.tensors())
