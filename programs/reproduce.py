"""Measure what a table of the paper shows, beside the published values; see docs/tables.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhpf.common.options import FORMATS, Parser, option
from dhpf.common.program import program
from dhpf.model import BACKBONES

EXAMPLES = (
    "python reproduce.py --table 1 --weights weights",
    "python reproduce.py --table mu --weights weights --backbones resnet101 --datapath ../Datasets_DHPF",
)


@dataclass(frozen=True)
class ReproduceOptions:
    table: str = option(help="of the paper; mu: selection rates", choices=("1", "2", "3", "mu"))
    weights: Path = option(help="checkpoints, named as docs/tables.md says", type=Path, metavar="DIR")
    out: Path = option(Path("logs/tables"), "finished cells and tables", type=Path, metavar="DIR")
    format: str = option("markdown", "of what is printed; all are written", choices=FORMATS)
    backbones: tuple[str, ...] = option(("resnet101", "resnet50"), "columns", choices=BACKBONES, nargs="+")


@program
def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(
        ReproduceOptions,
        "Measure what a table of the paper shows, beside the published values. Options of test.py, such as "
        "--datapath, --workers or --device, are handed on to it.",
        EXAMPLES,
    )
    options, given = parser.parse_known(arguments)
    from dhpf.programs.tables import reproduce  # torch: not needed to refuse an option

    reproduce(options, given)
