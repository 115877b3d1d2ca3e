"""The study around the method: parts of it replaced."""

from collections.abc import Sequence
from dataclasses import dataclass

from dhpf.common.errors import UserError


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


def requested_ablation(
    layer_count: int, learned: bool, layers: Sequence[int] | None, raw: bool, soft_gates: bool
) -> Ablation:
    """What the options of these names replace in a model of so many layers.

    Args: learned: whether gates are a checkpoint's; without, raw features are matched by all layers.
    Raises: UserError: they contradict each other, or there is no such layer.
    """
    if soft_gates and (layers is not None or (raw and not learned)):
        raise UserError("--soft-gates: gates are not used with --layers, nor without --load or --untrained")
    if layers is None and (learned or not raw):
        return Ablation(None, raw, soft_gates)
    fixed = tuple(sorted(set(range(layer_count) if layers is None else layers)))
    check_layer_numbers(fixed, layer_count)
    return Ablation(fixed, raw)


def check_layer_numbers(layers: tuple[int, ...] | None, layer_count: int) -> None:
    """Raises: UserError: there is no such layer."""
    wrong = [layer for layer in layers or () if not 0 <= layer < layer_count]
    if wrong or layers == ():
        text = ",".join(map(str, wrong)) or "none"
        raise UserError(f"--layers {text}: the backbone's hyperpixel layers are 0 to {layer_count - 1}")
