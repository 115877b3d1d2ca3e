"""The study around the method: parts of it replaced in evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dhpf.model.correlation import Correlation


@dataclass(frozen=True)
class Ablation:
    """What a `DHPF` does otherwise than the paper's method, in evaluation alone.

    layers: the layers that every pair selects, the static hyperpixels of HPF (ICCV 2019); None: the gates choose.
    raw: the backbone's own maps instead of transformed ones, as they are: longer vectors count more.
    soft: gates weigh a layer with its probability of selection, instead of 0 or 1.
    hough: False: appearance alone is the match score.
    """

    layers: tuple[int, ...] | None = None
    raw: bool = False
    soft: bool = False
    hough: bool = True

    @property
    def unlearned(self) -> bool:
        """Whether nothing learned is left."""
        return self.raw and self.layers is not None

    def __str__(self) -> str:
        """What differs, in words; empty if nothing does."""
        parts = {
            "raw features without transformation": self.raw,
            f"fixed layers {','.join(map(str, self.layers or ()))}": self.layers is not None,
            "soft gates": self.soft,
            "no Hough matching": not self.hough,
        }
        return ", ".join(part for part, holds in parts.items() if holds)


@torch.no_grad()
def without_hough(correlation: Correlation) -> tuple[Tensor, Tensor]:
    """In place of `hough_matching`: every displacement scores 1, and the column maxima that follow."""
    B, N = correlation.src_length.shape
    S = round(N**0.5)
    cells = torch.arange(N, device=correlation.src_length.device).expand(B, -1)
    rows = max(1, 2**22 // (B * N))  # a block of the matrix at a time
    maxima = [correlation.appearance(c).amax(1) for c in cells.split(rows, dim=1)]
    return maxima[0].new_ones(B, 2 * S - 1, 2 * S - 1), torch.stack(maxima).amax(0)
