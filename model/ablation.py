"""The study around the method: parts of it replaced."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dhpf.common.errors import UserError
from dhpf.common.options import Layers
from dhpf.model.options import AblationOptions

if TYPE_CHECKING:
    from dhpf.model.backbone import Frozen


@dataclass(frozen=True)
class Ablation:
    """What a `DHPF` does otherwise than the paper's method; in training fixed layers alone.

    layers: the layers that every pair selects, the static hyperpixels of HPF (ICCV 2019); None: the gates choose.
    raw: the backbone's own maps instead of transformed ones, as they are: longer vectors count more.
    soft: gates weigh a layer with its probability of selection, instead of 0 or 1.
    """

    layers: tuple[int, ...] | None = None
    raw: bool = False
    soft: bool = False

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
        }
        return ", ".join(part for part, holds in parts.items() if holds)


def checked_layers(
    layers: tuple[int, ...] | None, backbone: "Frozen | type[Frozen]"
) -> tuple[int, ...] | None:
    """The layers that --layers gives, if the backbone has them.

    Raises: UserError: it does not, or a search on another backbone found them.
    """
    found_on = layers.backbone if isinstance(layers, Layers) else None
    if found_on not in (None, backbone.name):
        raise UserError(f"--layers: the file's layers are of {found_on}, the backbone is {backbone.name}")
    if layers and layers[-1] >= len(backbone.channels):
        last = len(backbone.channels) - 1
        raise UserError(f"--layers {layers[-1]}: the backbone's hyperpixel layers are 0 to {last}")
    return layers


def ablation(
    options: AblationOptions,
    backbone: "Frozen | type[Frozen]",
    learned: bool,
    fixed: tuple[int, ...] | None = None,
) -> Ablation:
    """What the options say about a model of a backbone.

    Raw features without a learner use all layers where none are given: no gate has learned to choose.

    Args: fixed: the layers that the learner was trained with, if not with gates; it uses them unless told otherwise.
    Raises:
        UserError: they contradict each other, or there is no such layer.
    """
    chosen = checked_layers(options.layers, backbone) or fixed
    if chosen is None and options.raw and not learned:
        chosen = tuple(range(len(backbone.channels)))
    if chosen is not None and options.soft_gates:
        raise UserError("--soft-gates: no gate is asked with --layers, or with --raw and no --load")
    return Ablation(chosen, options.raw, options.soft_gates)
