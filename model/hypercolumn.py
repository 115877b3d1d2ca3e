"""Image codes: all that comparing an image with another needs of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dhpf.model.grid import interpolation


def interpolated_norms(maps: Tensor, layers: Tensor, side: int) -> Tensor:
    """Squared norms of every layer's bilinearly interpolated vectors, without interpolating the maps.

    An interpolated vector is a weighted sum of its 2×2 neighbours, so its squared norm is a weighted sum of
    their inner products: of each cell with itself, its right, its lower and its two diagonal neighbours.

    Args:
        maps: B×h×w×C, the concatenated channels of several layers (h = w).
        layers: C×K one-hot, the layer of every channel.
        side: S, the side of the correlation grid.
    Returns:
        B×K×S×S.
    """

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return ((a * b) @ layers).permute(0, 3, 1, 2)

    size = maps.shape[1]
    if size == side:
        return inner(maps, maps)
    u = interpolation(size, side, maps)
    own, next_ = u * u, 2 * u[:, :-1] * u[:, 1:]
    top, bottom = maps[:, :-1], maps[:, 1:]
    diagonal = inner(top[:, :, :-1], bottom[:, :, 1:]) + inner(top[:, :, 1:], bottom[:, :, :-1])
    across = own @ inner(maps, maps) + next_ @ inner(top, bottom)
    beside = own @ inner(maps[:, :, :-1], maps[:, :, 1:]) + 0.5 * next_ @ diagonal
    return across @ own.T + beside @ next_.T


@dataclass(frozen=True)
class ImageCode:
    """A batch of B encoded images.

    maps: for every side h of layers, the transformed maps of those layers, concatenated: B×h×h×C.
    norms: B×K×S×S, squared norms of every layer's vectors on the correlation grid.
    pooled: for every layer the global average of its untransformed map, B×C.
    origin: side of the frame, kind of features and model that the code is of, in words.
    """

    maps: tuple[Tensor, ...]
    norms: Tensor
    pooled: tuple[Tensor, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.norms)

    def __getitem__(self, index: Tensor | slice) -> "ImageCode":
        """The codes of some of the images."""
        return ImageCode(
            tuple(m[index] for m in self.maps),
            self.norms[index],
            tuple(p[index] for p in self.pooled),
            self.origin,
        )

    @staticmethod
    def cat(codes: "list[ImageCode]") -> "ImageCode":
        """One batch of several."""
        if len(codes) == 1:
            return codes[0]
        return ImageCode(
            tuple(torch.cat(m) for m in zip(*(c.maps for c in codes), strict=True)),
            torch.cat([c.norms for c in codes]),
            tuple(torch.cat(p) for p in zip(*(c.pooled for c in codes), strict=True)),
            codes[0].origin,
        )

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.maps, self.norms, *self.pooled)

    @property
    def nbytes(self) -> int:
        """Memory that the code holds, in bytes."""
        return sum(t.nbytes for t in self.tensors())
