"""The options of training."""

from dataclasses import dataclass
from pathlib import Path

from dhpf.common.options import OutputOptions, number, option
from dhpf.data.options import DataOptions
from dhpf.model import BACKBONES, VOTINGS
from dhpf.model.options import (
    DEFAULT_BACKBONE,
    DEFAULT_VOTING,
    NO_HOUGH,
    LayerOptions,
    LearnerOptions,
    ModelOptions,
)
from dhpf.training import SUPERVISIONS


@dataclass(frozen=True)
class TrainingOptions:
    supervision: str = option("strong", "key-points, or categories alone", choices=SUPERVISIONS)
    lr: float = option(0.03, "learning rate", type=number(float, 0), metavar="RATE")
    bsz: int = option(8, "pairs of a step, over all processes", type=number(int, 2), metavar="N")
    niter: int = option(5, "epochs", type=number(int, 1), metavar="N")
    selection: float = option(
        0.5, "mu, the rate at which layers should be selected", type=number(float, 0, 1), metavar="MU"
    )
    alpha: float = option(
        0.1, "PCK's alpha, also of the strong loss", type=number(float, 0, 1, above=True), metavar="A"
    )
    seed: int = option(0, "fixes everything that is drawn", type=number(int, 0, 2**32 - 1), metavar="N")
    save_every: int = option(0, "save the state within an epoch too", type=number(int, 0), metavar="STEPS")
    resume: Path | None = option(None, "continue the run of this folder", type=Path, metavar="RUN_FOLDER")


@dataclass(frozen=True)
class TrainOptions(OutputOptions, LayerOptions, LearnerOptions, ModelOptions, DataOptions, TrainingOptions):
    """All options of `train.py`."""

    backbone: str = option(
        DEFAULT_BACKBONE, "frozen feature extractor, timm:NAME for any of timm", choices=BACKBONES
    )
    voting: str = option(DEFAULT_VOTING, "what re-weights appearance", choices=VOTINGS, shorthand=NO_HOUGH)
