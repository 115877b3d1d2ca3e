"""Sums over pairs, of which the figures of an epoch are made."""

import math
from dataclasses import dataclass

from torch import Tensor

from dhpf.evaluation.metrics import to_float64
from dhpf.training.supervision import StepResult


@dataclass(frozen=True)
class Totals:
    """Sums over pairs. A batch's losses count for each of its pairs.

    Args:
        selection: how many pairs selected each layer, K.
        pck: in percent, of the `pck_pairs` pairs that have one.
    """

    selection: Tensor
    pairs: float = 0.0
    loss: float = 0.0
    selection_loss: float = 0.0
    pck: float = 0.0
    pck_pairs: float = 0.0

    @classmethod
    def of_step(cls, step: StepResult) -> "Totals":
        pairs, has_pck = len(step.pck), step.pck.isfinite()
        return cls(
            to_float64(step.selection.detach()).cpu().mean(0) * pairs,
            pairs,
            step.loss.item() * pairs,
            step.selection_loss.item() * pairs,
            float(step.pck[has_pck].sum()),
            int(has_pck.sum()),
        )

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(**{name: value + vars(other)[name] for name, value in vars(self).items()})

    def means(self) -> dict[str, float]:
        pairs = max(self.pairs, 1)
        return {
            "loss": self.loss / pairs,
            "pck": self.pck / self.pck_pairs if self.pck_pairs else math.nan,
            "selection_loss": self.selection_loss / pairs,
        }
