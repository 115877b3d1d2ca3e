"""Match points of your own images; see `python match.py --help` and docs/own-images.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhpf.common.errors import UserError
from dhpf.common.options import Parser, number, option
from dhpf.common.program import program
from dhpf.data.options import MAX_PIXELS
from dhpf.model.options import AblationOptions, LoadOptions, ModelOptions

EXAMPLES = (
    'python match.py a.jpg b.jpg --points "120,80 64.5,200"',
    "python match.py a.jpg folder/ --grid 10 --load logs/strong/best_model.pt",
)


@dataclass(frozen=True)
class ImagesOptions:
    source: Path = option(help="image that has the points", positional=True, type=Path, metavar="SRC")
    targets: tuple[Path, ...] = option(
        help="images, or folders of images, to match it with",
        positional=True,
        type=Path,
        nargs="+",
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
    grid: int = option(
        6, "N×N points spread over SRC", either="points", type=number(int, 1, 100), metavar="N"
    )
    min_confidence: float = option(
        0.0, "leave out points that are less sure", type=number(float, 0, 1), metavar="C"
    )
    json: bool = option(False, "print what was found as JSON, a line for each target")
    no_warp: bool = option(False, "write no warped picture")
    max_pixels: int = option(MAX_PIXELS, "decode no image that has more", type=number(int, 1), metavar="N")
    output: Path = option(Path("matches"), "folder of what is written", type=Path, metavar="DIR")
    table_out: Path | None = option(
        None, "add the matches to this table of pairs, for --benchmark table", type=Path, metavar="FILE.csv"
    )


@dataclass(frozen=True)
class MatchOptions(AblationOptions, ModelOptions, LoadOptions, ImagesOptions):
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
    for place in (options.source, *options.targets, *filter(None, [options.points_file])):
        if not place.exists():
            raise UserError(f"{place}: there is no such file")
    from dhpf.programs.matching import match  # torch: not needed to refuse an option

    match(options)
