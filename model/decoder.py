"""Decoders: where source cells are in the target, from their rows of match scores (docs/measures.md).

A decoder is a function of rows of match scores of any voting, after the mutual nearest-neighbour filter: B×n×N. It
gives target positions (x, y) in cells, whole or not: B×n×2. A key-point then moves by the mean shift of the cells that
cover it, whatever the decoder (`transfer.transfer_keypoints`). A name may have parameters behind it:
`window-soft-argmax:temperature=0.1,window=5`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dhpf.common.errors import UserError
from dhpf.model import DECODERS
from dhpf.model.transfer import EPS

GRID = 60  # cells a side of the grid that windows and widths are given for; on another grid they scale with its side


Decoder = Callable[[Tensor], Tensor]


def cells(rows: Tensor) -> Tensor:
    """The paper's: the best target cell."""
    best, side = rows.argmax(2), round(rows.shape[2] ** 0.5)
    return torch.stack([best % side, best // side], 2).to(rows)


@dataclass(frozen=True)
class SoftArgmax(ABC):
    """The expected cell under a softmax of a row, scaled to maximum 1, around its best cell.

    Published temperatures are for cosines; match scores may be small and flat, so each row is divided by its largest
    score first. temperature: divides the scaled scores before the softmax.
    """

    temperature: float

    def __call__(self, rows: Tensor) -> Tensor:
        side = round(rows.shape[2] ** 0.5)
        rows = rows / rows.amax(2, keepdim=True).clamp(min=EPS)
        best, axis = rows.argmax(2, keepdim=True), torch.arange(side).to(rows)
        dy, dx = ((axis - at) * (GRID / side) for at in (best // side, best % side))
        weights = (
            self.around(rows.unflatten(2, (side, side)), dy, dx).flatten(2) / self.temperature
        ).softmax(2)
        grid = weights.unflatten(2, (side, side))
        return torch.stack([(grid.sum(dim) * axis).sum(2) for dim in (2, 3)], 2)

    @abstractmethod
    def around(self, rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        """Rows B×n×S×S with less weight far from the best cell; dy, dx: distances from it in cells, B×n×S."""


@dataclass(frozen=True)
class WindowSoftArgmax(SoftArgmax):
    """GeoAware-SC's: cells outside a window of (2 window + 1)² do not count.

    outside: `none`, they have no weight; `zero`, their score is 0, which has a weight, as published.
    """

    temperature: float = 0.02
    window: float = 7
    outside: str = "none"

    def around(self, rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        inside = (dy.abs() <= self.window)[..., :, None] & (dx.abs() <= self.window)[..., None, :]
        return rows.masked_fill(~inside, 0 if self.outside == "zero" else -torch.inf)


@dataclass(frozen=True)
class KernelSoftArgmax(SoftArgmax):
    """SFNet's, as in SD4Match: scores are multiplied by a Gaussian around the best cell."""

    temperature: float = 0.05
    sigma: float = 7

    def around(self, rows: Tensor, dy: Tensor, dx: Tensor) -> Tensor:
        y, x = (torch.exp(-d.square() / (2 * self.sigma**2)) for d in (dy, dx))
        return rows * y[..., :, None] * x[..., None, :]


window_soft_argmax, kernel_soft_argmax = WindowSoftArgmax(), KernelSoftArgmax()
CHOICES = {"outside": ("none", "zero")}


def with_parameters(name: str) -> Decoder:
    """The decoder of a name 'decoder:parameter=value,...'. Raises: UserError: no such parameter or value."""
    kind, _, text = name.partition(":")
    decoder = DECODERS[kind]
    known = {field.name: getattr(decoder, field.name) for field in fields(decoder)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for part in text.split(","):
        parameter, _, value = (word.strip() for word in part.partition("="))
        if choices := CHOICES.get(parameter):
            values[parameter] = value if value in choices else None
        else:
            with suppress(ValueError):
                values[parameter] = float(value) if 0 < float(value) < torch.inf else None
        if parameter not in known or values.get(parameter) is None:
            shown = ",".join(f"{k}={v}" for k, v in known.items())
            raise UserError(f"--decoder {name}: '{part}' is none of its parameters, such as {kind}:{shown}")
    return replace(decoder, **values)  # type: ignore[type-var]
