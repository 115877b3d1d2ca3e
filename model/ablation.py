"""The study around the method: parts of it replaced."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ablation:
    """What a `DHPF` does otherwise than the paper's method; in training fixed layers alone.

    fixed_layers: the layers that every pair selects, the static hyperpixels of HPF (ICCV 2019); None: the gates choose.
    raw: the backbone's own maps instead of transformed ones, as they are: longer vectors count more.
    soft: gates weigh a layer with its probability of selection, instead of 0 or 1.
    """

    fixed_layers: tuple[int, ...] | None = None
    raw: bool = False
    soft: bool = False

    @property
    def unlearned(self) -> bool:
        """Whether nothing learned is left."""
        return self.raw and self.fixed_layers is not None

    def __str__(self) -> str:
        """What differs, in words; empty if nothing does."""
        parts = {
            "raw features without transformation": self.raw,
            f"fixed layers {','.join(map(str, self.fixed_layers or ()))}": self.fixed_layers is not None,
            "soft gates": self.soft,
        }
        return ", ".join(part for part, holds in parts.items() if holds)
