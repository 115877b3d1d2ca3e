"""Match points of your own images; see `python match.py --help` and docs/own-images.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhpf.common.errors import UserError
from dhpf.common.options import Parser, number, option
from dhpf.common.program import program
from dhpf.data import BENCHMARKS, MAX_PIXELS
from dhpf.data.options import BenchmarkOptions
from dhpf.model.options import AblationOptions, InferenceOptions, LoadOptions, ModelOptions

EXAMPLES = (
    'python match.py a.jpg b.jpg --points "120,80 64.5,200" --explore a-b.html',
    "python match.py --benchmark spair --pair 17 --load logs/strong/best_model.pt",
)


@dataclass(frozen=True)
class ImagesOptions:
    source: Path | None = option(
        None, "image that has the points", positional=True, type=Path, nargs="?", metavar="SRC"
    )
    targets: tuple[Path, ...] = option(
        (),
        "images, or folders of images, to match it with",
        positional=True,
        type=Path,
        nargs="*",
        metavar="TRG",
    )
    points: str | None = option(
        None,
        "points in pixels of SRC: themselves, a file as --points-file, or - for standard input",
        either="points",
        metavar='"x,y x,y ..."',
    )
    points_file: Path | None = option(
        None,
        "a line x,y for each point, or JSON of labelme, COCO or VGG Image Annotator",
        either="points",
        type=Path,
        metavar="FILE",
    )
    grid: int | None = option(
        None,
        "N×N points spread over SRC; 6×6 if no points are given",
        either="points",
        type=number(int, 1, 100),
        metavar="N",
    )
    min_confidence: float = option(
        0.0, "leave out points that are less sure", type=number(float, 0, 1), metavar="C"
    )
    json: bool = option(False, "print what was found as JSON, a line for each target")
    no_warp: bool = option(False, "write no warped picture")
    max_pixels: int = option(MAX_PIXELS, "decode no image that has more", type=number(int, 1), metavar="N")
    explore: Path | None = option(
        None, "a page that predicts for any point of either image", type=Path, metavar="FILE.html"
    )
    output: Path = option(Path("matches"), "folder of what is written", type=Path, metavar="DIR")
    table_out: Path | None = option(
        None, "add the matches to this table of pairs, for --benchmark table", type=Path, metavar="FILE.csv"
    )

    @property
    def own_points(self) -> bool:
        """Whether points are asked for; else they are a grid's, or a pair's key-points."""
        return any(given is not None for given in (self.points, self.points_file, self.grid))


@dataclass(frozen=True)
class PairOptions(BenchmarkOptions):
    """A pair of a benchmark instead of images."""

    benchmark: str | None = option(
        None, "match a pair of it, with --pair, instead of images", choices=BENCHMARKS
    )
    pair: int | None = option(
        None, "its number in the benchmark's list, counted from 0", type=number(int, 0), metavar="N"
    )
    split: str | None = option(None, "pairs that it is of: trn, val, ...; as for test.py", metavar="SPLIT")


@dataclass(frozen=True)
class MatchOptions(AblationOptions, InferenceOptions, ModelOptions, LoadOptions, PairOptions, ImagesOptions):
    """All options of `match.py`."""


@program
def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(
        MatchOptions,
        "Match points of your own image with other images. Without --load it matches the backbone's raw features: "
        "nothing learned for matching, all layers, Hough matching.",
        EXAMPLES,
    )
    options: MatchOptions = parser.parse(arguments)
    if (options.pair is None) != (options.benchmark is None):
        raise UserError("a pair of a benchmark needs both --benchmark and --pair")
    if options.pair is not None and (options.source or options.table_out):
        raise UserError("--pair: a pair of a benchmark has its images, give no others and no --table-out")
    if options.pair is not None and options.min_confidence and not options.own_points:
        raise UserError(
            "--min-confidence: all key-points of a pair are drawn, give it with --points or --grid"
        )
    if options.pair is None and not (options.source and options.targets):
        raise UserError("give SRC and TRG, or a pair of a benchmark with --benchmark and --pair")
    for place in filter(None, (options.source, *options.targets, options.points_file)):
        if not place.exists():
            raise UserError(f"{place}: there is no such file")
    # What needs torch is imported when the options are known to be good.
    if options.pair is not None:
        from dhpf.programs.pairs import match_pair

        match_pair(options, options.pair)
    else:
        from dhpf.programs.matching import match

        match(options)
