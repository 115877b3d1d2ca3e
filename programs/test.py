"""Measure DHPF on a benchmark; see `python test.py --help` and the README."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhpf.common.options import OutputOptions, Parser, existing, number, option
from dhpf.common.program import program
from dhpf.data.options import DataOptions
from dhpf.model.options import AblationOptions, LoadOptions, ModelOptions

EXAMPLES = (
    "python test.py --benchmark pfpascal --load logs/strong/best_model.pt",
    "python test.py --benchmark spair --load dhpf:spair-strong-resnet101 --alpha 0.05 0.1 0.15",
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
        None, "score predictions.csv.gz of an earlier test anew", type=existing, metavar="FILE"
    )


@dataclass(frozen=True)
class TestOptions(OutputOptions, AblationOptions, ModelOptions, LoadOptions, DataOptions, TestingOptions):
    """All options of `test.py`."""


def parser() -> Parser:
    return Parser(
        TestOptions, "Measure a trained DHPF on a benchmark, by default on its test pairs.", EXAMPLES
    )


@program
def main(arguments: Sequence[str] | None = None) -> None:
    options: TestOptions = parser().parse(arguments)
    if options.from_predictions:
        # What needs torch or pandas is imported when the options are known to be good.
        from dhpf.evaluation.results import describe, rescore

        print(describe(rescore(options.from_predictions, options.alpha, options.thres)))
    else:
        from dhpf.programs.testing import evaluate

        evaluate(options)
