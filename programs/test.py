"""Measure DHPF on a benchmark; see `python test.py --help` and the README."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhpf.common.options import OutputOptions, Parser, number, option, predictions
from dhpf.common.program import program
from dhpf.data.options import DataOptions
from dhpf.model.options import AblationOptions, InferenceOptions, LearnerOptions, LoadOptions, ModelOptions

# What may differ when a test is resumed: it does not change what is predicted.
FREE = {"resume", "logpath", "overwrite", "datapath", "device", "workers", "no_download", "backbone_weights"}
FREE |= {"on_bad_pair", "images", "bsz", "alpha", "quiet"}
EXAMPLES = (
    "python test.py --benchmark pfpascal --load logs/strong/best_model.pt",
    "python test.py --benchmark spair --from-predictions others.csv --alpha 0.05 0.1 0.15",
)


FRAME = option(
    "image",
    "another method's x and y are pixels of the stored image, or of 240x240",
    choices=("image", "240"),
)


@dataclass(frozen=True)
class TestingOptions:
    alpha: tuple[float, ...] = option(
        (0.1,), "PCK's alpha, one or several", type=number(float, 0, 1, above=True), nargs="+", metavar="A"
    )
    split: str | None = option(
        None, "pairs to measure on: trn, val, ...; test if not given, of one's own file all", metavar="SPLIT"
    )
    bsz: int = option(8, "pairs compared together on a GPU", type=number(int, 1), metavar="N")
    cache_gb: float = option(
        0.5,
        "memory for the codes of images that more pairs show, in GB",
        type=number(float, 0),
        metavar="GB",
    )
    seed: int = option(0, "draws the untrained learner", type=number(int, 0, 2**32 - 1), metavar="N")
    from_predictions: Path | None = option(
        None,
        "no model: score predictions, of an earlier test (file or run folder) or of another method (CSV, JSON lines)",
        type=predictions,
        metavar="FILE",
    )
    resume: Path | None = option(None, "continue the test of this folder", type=Path, metavar="RUN_FOLDER")
    overwrite: bool = option(False, "replace the run folder that --logpath names")
    predictions_frame: str = FRAME


@dataclass(frozen=True)
class TestOptions(
    OutputOptions,
    AblationOptions,
    InferenceOptions,
    LearnerOptions,
    ModelOptions,
    LoadOptions,
    DataOptions,
    TestingOptions,
):
    """All options of `test.py`."""


def parser() -> Parser:
    return Parser(
        TestOptions, "Measure a trained DHPF on a benchmark, by default on its test pairs.", EXAMPLES
    )


@program(processes=True)
def main(arguments: Sequence[str] | None = None) -> None:
    options: TestOptions = parser().parse_resumable(arguments, FREE)
    # What needs torch or pandas is imported when the options are known to be good.
    from dhpf.programs import testing

    if options.from_predictions:
        testing.measure_predictions(options, options.from_predictions)
    else:
        testing.evaluate(options)
