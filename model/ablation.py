"""The study around the method: parts of it replaced."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dhpf.common.errors import UserError
from dhpf.common.options import ORIGIN, Layers
from dhpf.model import BACKBONES
from dhpf.model.options import DEFAULT_BACKBONE, AblationOptions, ModelOptions


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


def layer_count(options: ModelOptions) -> int:
    """How many hyperpixel layers the options ask for."""
    return len(options.backbone_layers or BACKBONES[options.backbone or DEFAULT_BACKBONE].channels)


def check_layers(
    layers: tuple[int, ...] | None, count: int, about: Callable[[], Mapping[str, str]] | None = None
) -> None:
    """Whether a backbone has these layers.

    Args:
        count: of its layers.
        about: gives what it says of itself (`FrozenBackbone.metadata`), which the layers of a search are compared with.
    Raises:
        UserError: it does not have them, or a search on another backbone found them.
    """
    if layers and layers[-1] >= count:
        raise UserError(f"--layers {layers[-1]}: the backbone's hyperpixel layers are 0 to {count - 1}")
    if about and isinstance(layers, Layers) and layers.origin:
        mine = {name: about().get(name, "") for name in ORIGIN}
        if layers.origin != mine:
            theirs, ours = (" ".join(filter(None, said.values())) for said in (layers.origin, mine))
            raise UserError(f"--layers: the file's layers were found on {theirs}, the backbone is {ours}")


def ablation(
    options: AblationOptions, layers: int, learned: bool, fixed: tuple[int, ...] | None = None
) -> Ablation:
    """What the options say about a model of so many layers.

    Raw features without a learner use all layers where none are given: no gate has learned to choose.

    Args: fixed: the layers that the learner was trained with, if not with gates; it uses them unless told otherwise.
    Raises:
        UserError: they contradict each other, or there is no such layer.
    """
    chosen = fixed if options.layers is None else options.layers
    if chosen is None and options.raw and not learned:
        chosen = tuple(range(layers))
    if chosen is not None and options.soft_gates:
        raise UserError("--soft-gates: no gate is asked with --layers, or with --raw and no --load")
    check_layers(chosen, layers)
    return Ablation(chosen, options.raw, options.soft_gates)
