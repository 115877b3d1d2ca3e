"""The options of all programs, each defined once."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.errors import UserError
from data import BENCHMARKS
from model.backbone import BACKBONES

THRESHOLDS = """what PCK is relative to. img: the side of the frame; bbox: the larger side of the target's
box, on PF-WILLOW the published max(x, y) + 1 over its key-points; bbox-kp: the true extent of the target's
key-points; auto: the benchmark's own, img on PF-PASCAL, bbox elsewhere"""


class Parser(argparse.ArgumentParser):
    """Answers a wrong option with one sentence and exit code 2."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def number(
    kind: type, low: float, high: float = float("inf"), *, above: bool = False
) -> Callable[[str], float]:
    """Argument type: a finite number of `kind` from `low` (excluded if `above`) to `high`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number of type {kind.__name__}") from None
        if not (low < value if above else low <= value) or not value <= high or value == float("inf"):
            bounds = f"{'above' if above else 'at least'} {low:g}" + (
                f" and at most {high:g}" if high < 1e30 else ""
            )
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return value

    return parse


def image_side(text: str) -> int:
    """Argument type: a side that the correlation grid divides."""
    side = int(number(int, 64)(text))
    if side % 4:
        raise argparse.ArgumentTypeError(f"{side} is not a multiple of 4")
    return side


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Options of training and testing alike."""
    add = parser.add_argument
    add("--benchmark", choices=list(BENCHMARKS), default="synthetic", help="synthetic needs no download")
    add(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="the backbone's ImageNet weights, if not to be fetched",
    )
    add("--datapath", type=Path, default=Path("../Datasets_DHPF"), help="folder of the benchmarks' folders")
    add("--no-download", action="store_true", help="never fetch a missing benchmark")
    add("--thres", choices=["auto", "img", "bbox", "bbox-kp"], default="auto", help=THRESHOLDS)
    add(
        "--logpath",
        default="",
        metavar="NAME",
        help="run folder, logs/NAME; named after the run if not given",
    )
    add("--img-side", type=image_side, default=240, help="side that images are resized to, in pixels")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="of the backbone and the transformation"
    )
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, help="fixes everything that is drawn")
    add(
        "--workers",
        type=number(int, 0, 64),
        default=2,
        help="processes that load images; 0: the program itself",
    )
    add(
        "--on-bad-pair",
        choices=["stop", "skip"],
        default="stop",
        help="what an unreadable pair does to the run",
    )


def training_parser() -> Parser:
    parser = Parser(
        "Train DHPF. An epoch is one pass over the training pairs and one over the validation pairs."
    )
    add = parser.add_argument
    add("--supervision", choices=["strong", "weak"], default="strong", help="key-points, or categories alone")
    add("--backbone", choices=list(BACKBONES), default="efficientnet_lite0", help="frozen feature extractor")
    add("--lr", type=number(float, 0), default=0.03, help="learning rate")
    add("--bsz", type=number(int, 2), default=8, help="pairs of a training step, over all processes")
    add("--niter", type=number(int, 0), default=5, help="epochs")
    add(
        "--selection",
        type=number(float, 0, 1),
        default=0.5,
        help="mu, the rate at which layers should be selected",
    )
    add(
        "--alpha", type=number(float, 0, above=True), default=0.1, help="PCK's alpha, also of the strong loss"
    )
    add(
        "--save-every",
        type=number(int, 0),
        default=0,
        metavar="STEPS",
        help="save the state within an epoch too",
    )
    add("--resume", type=Path, metavar="RUN_FOLDER", help="continue the run of this folder")
    add_shared(parser)
    return parser


def testing_parser() -> Parser:
    parser = Parser("Measure a trained DHPF on a benchmark's test split.")
    add = parser.add_argument
    add(
        "--load",
        type=Path,
        metavar="CKPT",
        help="learner to test; without it an untrained one, drawn from --seed",
    )
    add(
        "--backbone",
        choices=list(BACKBONES),
        help="what the checkpoint belongs to; read from it if not given",
    )
    add("--bsz", type=number(int, 1), default=8, help="pairs compared together on a GPU")
    add(
        "--alpha",
        type=number(float, 0, above=True),
        default=[0.1],
        nargs="+",
        help="PCK's alpha, one or several",
    )
    add(
        "--from-predictions",
        type=Path,
        metavar="FILE",
        help="score predictions.csv.gz of an earlier test anew",
    )
    add_shared(parser)
    return parser


def program(main: Callable[[], None]) -> None:
    """Run a program; a user's mistake ends it with one sentence and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
