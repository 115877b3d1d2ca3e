"""What a model is: options make a `ModelConfig`, `build_model` takes it, checkpoints and run folders hold it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dhpf.common.errors import UserError
from dhpf.model import DECODERS, VOTINGS
from dhpf.model.dhpf import DHPF
from dhpf.weights import DEFAULT_DECODER, DEFAULT_VOTING

# The names of the fields in files, and of the options that give them.
KEYS = {
    "backbone": "backbone",
    "blocks": "backbone_layers",
    "input_size": "backbone_side",
    "reduced_channels": "width",
    "voting": "voting",
    "fixed_layers": "layers",
    "weights_hash": "backbone_weights",
    "decoder": "decoder",
}


@dataclass(frozen=True)
class ModelConfig:
    """What a model is. Two models are the same kind where these are equal.

    Args:
        backbone: a key of `BACKBONES`.
        blocks: which blocks of the backbone are hyperpixel layers, ascending; None: all.
        input_size: size of the images that the backbone is given, pixels; None: that of the frame.
        reduced_channels: of every layer after the transformation: `EIGHTH` of its own, a number that is the
            most, or one for each layer; None: the backbone's default.
        voting: a key of `VOTINGS`.
        fixed_layers: the hyperpixel layers that all pairs use, ascending; None: the gates choose.
        weights_hash: of the backbone's weights; empty where it is not known.
        decoder: a key of `DECODERS`; files name it unless it is the paper's.
    """

    backbone: str
    blocks: tuple[int, ...] | None = None
    input_size: int | None = None
    reduced_channels: int | str | tuple[int, ...] | None = None
    voting: str = DEFAULT_VOTING
    fixed_layers: tuple[int, ...] | None = None
    weights_hash: str = ""
    decoder: str = DEFAULT_DECODER

    @classmethod
    def of_model(cls, model: DHPF) -> "ModelConfig":
        """The config of a model in memory."""
        backbone = model.backbone
        return cls(
            backbone.name,
            backbone.blocks,
            backbone.input_size,
            backbone.reduction if isinstance(backbone.reduction, str) else max(backbone.reduced_channels),
            model.voting,
            model.ablation.fixed_layers,
            backbone.weights_hash,
            model.decoder,
        )

    def to_metadata(self) -> dict[str, str]:
        """As files have it: texts by `KEYS`, without what is None or empty."""
        values = {KEYS[field.name]: getattr(self, field.name) for field in fields(self)}
        return {
            key: as_text(value) for key, value in values.items() if value not in (None, "", DEFAULT_DECODER)
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "ModelConfig":
        """What `to_metadata`, or an earlier version, wrote. Raises: UserError: it cannot be read."""
        values = {field.name: str(metadata.get(KEYS[field.name]) or "") for field in fields(cls)}
        try:
            width = values["reduced_channels"]
            return cls(
                values["backbone"],
                _numbers(values["blocks"]),
                int(values["input_size"]) if values["input_size"] else None,
                int(width) if width.isdecimal() else width or None,
                VOTINGS.checked(values["voting"] or DEFAULT_VOTING),
                _numbers(values["fixed_layers"]),
                values["weights_hash"],
                DECODERS.checked(values["decoder"] or DEFAULT_DECODER),
            )
        except ValueError as error:
            raise UserError(f"the description of the model cannot be read ({error})") from error


def as_text(value: Any) -> str:
    """A value of a config as files have it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _numbers(text: str) -> tuple[int, ...] | None:
    return tuple(int(part) for part in text.split(",") if part) or None
