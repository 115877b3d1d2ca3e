"""The options of all programs, each defined once."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from dhpf.common.errors import UserError
from dhpf.common.processes import keep_freed_memory
from dhpf.data import BENCHMARKS
from dhpf.model.ablation import Ablation
from dhpf.model.backbone import BACKBONES
from dhpf.model.released import resolve

THRESHOLDS = """what PCK is relative to. img: the side of the frame; bbox: the larger side of the target's
box, on PF-WILLOW the published max(x, y) + 1 over its key-points; bbox-kp: the true extent of the target's
key-points; auto: the benchmark's own, img on PF-PASCAL, bbox elsewhere; Caltech-101 needs none"""


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


def layer_set(text: str) -> tuple[int, ...]:
    """Argument type: distinct numbers of hyperpixel layers, '2,17,21'."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of layer numbers such as 2,17,21")
    return tuple(sorted({int(part) for part in parts}))


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Options of all programs: what computes, and where."""
    add = parser.add_argument
    add(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="the backbone's ImageNet weights, if not to be fetched",
    )
    add("--img-side", type=image_side, default=240, help="side that images are resized to, in pixels")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def add_ablations(parser: argparse.ArgumentParser) -> None:
    """Options that replace parts of the method in evaluation."""
    add = parser.add_argument_group("ablations", "parts of the method replaced").add_argument
    add(
        "--layers",
        type=layer_set,
        metavar="L,L,...",
        help="every pair uses these hyperpixel layers, counted from 0; no gate is asked",
    )
    add("--raw", action="store_true", help="the backbone's own features, without the learned transformation")
    add("--soft-gates", action="store_true", help="weigh layers by their probability instead of 0 or 1")
    add("--no-hough", action="store_true", help="match by appearance alone, without Hough matching")


def ablation(options: argparse.Namespace, layers: int) -> Ablation:
    """What the options of `add_ablations` say about a model of so many layers.

    Raw features without a checkpoint use all layers where none are given: no gate has learned to choose.
    Raises:
        UserError: they contradict each other, or there is no such layer.
    """
    chosen = options.layers
    if chosen is None and options.raw and not options.load:
        chosen = tuple(range(layers))
    if chosen is not None and options.soft_gates:
        raise UserError("--soft-gates: no gate is asked with --layers, or with --raw and no --load")
    if chosen is not None and chosen[-1] >= layers:
        raise UserError(f"--layers {chosen[-1]}: the backbone's hyperpixel layers are 0 to {layers - 1}")
    return Ablation(chosen, options.raw, options.soft_gates, not options.no_hough)


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Options of training and testing alike."""
    add = parser.add_argument
    add_computing(parser)
    add("--benchmark", choices=list(BENCHMARKS), default="synthetic", help="synthetic needs no download")
    add("--datapath", type=Path, default=Path("../Datasets_DHPF"), help="folder of the benchmarks' folders")
    add("--no-download", action="store_true", help="never fetch a missing benchmark")
    add("--thres", choices=["auto", "img", "bbox", "bbox-kp"], default="auto", help=THRESHOLDS)
    add(
        "--logpath",
        default="",
        metavar="NAME",
        help="run folder, logs/NAME; named after the run if not given",
    )
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
        type=resolve,
        metavar="CKPT",
        help="learner to test, a file or a released one such as dhpf:spair-strong-resnet101; without it an "
        "untrained one, drawn from --seed",
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
    add_ablations(parser)
    return parser


def matching_parser() -> Parser:
    parser = Parser(
        "Match points of your own image with other images. Without --load it matches the backbone's raw "
        "features: nothing learned for matching, all layers, Hough matching."
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SRC", help="image that has the points")
    add("targets", type=Path, nargs="+", metavar="TRG", help="images, or folders of images, to match it with")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--points", metavar='"x,y x,y ..."', help="points in pixels of SRC")
    which.add_argument(
        "--points-file", type=Path, metavar="FILE", help="text file, a line x,y for each point"
    )
    which.add_argument(
        "--grid", type=number(int, 1, 100), default=6, metavar="N", help="N×N points spread over SRC"
    )
    add("--output", type=Path, default=Path("matches"), metavar="DIR", help="folder of what is written")
    add(
        "--load",
        type=resolve,
        metavar="CKPT",
        help="checkpoint, or a released one: dhpf:spair-strong-resnet101",
    )
    add("--backbone", choices=list(BACKBONES), help="read from --load; efficientnet_lite0 without it")
    add_computing(parser)
    add_ablations(parser)
    return parser


def program(main: Callable[[], None]) -> None:
    """Run a program; a user's mistake ends it with one sentence and exit code 2, Ctrl-C with 130."""
    keep_freed_memory()
    try:
        main()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # training answers for itself: it saves its state
        print(f"{Path(sys.argv[0]).name}: stopped", file=sys.stderr)
        sys.exit(130)
