"""Compare runs or predictions on the same pairs; see `python compare.py --help` and docs/comparing.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhpf.common.errors import UserError
from dhpf.common.options import FORMATS, Parser, image_side, number, option, predictions
from dhpf.common.program import program
from dhpf.data.options import DataOptions
from dhpf.programs.test import FRAME

EXAMPLES = (
    "python compare.py logs/before logs/after",
    "python compare.py logs/ours theirs.csv --benchmark spair --format html --out compared.html",
)


@dataclass(frozen=True)
class RunsOptions:
    runs: tuple[Path, ...] = option(
        help="run folders or files of predictions, at least two; the others are compared with the first",
        positional=True,
        type=predictions,
        nargs="+",
        metavar="RUN",
    )
    alpha: tuple[float, ...] = option(
        (0.1,), "PCK's alpha, one or several", type=number(float, 0, 1, above=True), nargs="+", metavar="A"
    )
    format: str = option("text", "of the tables; html with pictures", choices=FORMATS)
    out: Path | None = option(None, "write there instead of printing", type=Path, metavar="FILE")
    split: str | None = option(None, "of another method's predictions: trn, val, ...", metavar="SPLIT")
    img_side: int = option(
        240,
        "of another method's predictions: side of the frame they are measured in",
        type=image_side,
        metavar="N",
    )
    predictions_frame: str = FRAME


@dataclass(frozen=True)
class CompareOptions(DataOptions, RunsOptions):
    """All options of `compare.py`."""


@program
def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(
        CompareOptions,
        "Compare runs, or predictions of other methods, on the pairs that all of them have. The data options are for "
        "predictions of other methods, and --datapath for pictures.",
        EXAMPLES,
    )
    options: CompareOptions = parser.parse(arguments)
    if len(options.runs) < 2:
        raise UserError("give two runs or more to compare")
    from dhpf.programs.comparing import compare_runs  # pandas and torch: not needed to refuse an option

    compare_runs(options)
