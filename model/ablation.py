"""The study around the method: parts of it replaced in evaluation."""

from dataclasses import dataclass

from dhpf.common.errors import UserError
from dhpf.model import BACKBONES
from dhpf.model.options import DEFAULT_BACKBONE, AblationOptions, ModelOptions


@dataclass(frozen=True)
class Ablation:
    """What a `DHPF` does otherwise than the paper's method, in evaluation alone.

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


def layer_count(options: ModelOptions) -> int:
    """How many hyperpixel layers the options ask for."""
    return len(options.backbone_layers or BACKBONES[options.backbone or DEFAULT_BACKBONE].channels)


def ablation(options: AblationOptions, layers: int, learned: bool) -> Ablation:
    """What the options say about a model of so many layers.

    Raw features without a learner use all layers where none are given: no gate has learned to choose.
    Raises:
        UserError: they contradict each other, or there is no such layer.
    """
    chosen = options.layers
    if chosen is None and options.raw and not learned:
        chosen = tuple(range(layers))
    if chosen is not None and options.soft_gates:
        raise UserError("--soft-gates: no gate is asked with --layers, or with --raw and no --load")
    if chosen is not None and chosen[-1] >= layers:
        raise UserError(f"--layers {chosen[-1]}: the backbone's hyperpixel layers are 0 to {layers - 1}")
    return Ablation(chosen, options.raw, options.soft_gates)
