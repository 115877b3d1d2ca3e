"""The options of all that opens a benchmark."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhpf.common.options import names, number, option
from dhpf.data import BENCHMARKS

THRESHOLDS = """what PCK is relative to. img: the side of the frame; bbox: the larger side of the target's
box, on PF-WILLOW the published max(x, y) + 1 over its key-points; bbox-kp: the true extent of the target's
key-points; auto: the benchmark's own, img on PF-PASCAL, bbox elsewhere; Caltech-101 needs none"""


def pair_count(text: str) -> int | str:
    """Argument type: a number of pairs, or 'all'."""
    return text if text == "all" else int(number(int, 1)(text))


@dataclass(frozen=True)
class BenchmarkOptions:
    """Which pairs of a benchmark."""

    datapath: Path = option(
        Path("../Datasets_DHPF"),
        "folder of the benchmarks' folders; of coco and table the file, or three as TRN,VAL,TEST",
        type=Path,
        metavar="DIR",
    )
    images: Path | None = option(
        None, "coco: folder of the images, if they are not beside the file or below", type=Path, metavar="DIR"
    )
    pairs: int | str | None = option(
        None, "coco: pairs drawn of each category, or all; 100 if not given", type=pair_count, metavar="N"
    )
    val_share: float | None = option(
        None,
        "coco, table: share of one file's images that are for validation, 0.1 if not given",
        type=number(float, 0, 1, above=True),
        metavar="SHARE",
    )
    no_download: bool = option(False, "never fetch a missing benchmark")
    list: tuple[Path, ...] = option(
        (),
        "pair list to read instead of the folder's own; to train two, for training and validation",
        type=Path,
        nargs="+",
        metavar="FILE",
    )
    categories: tuple[str, ...] = option((), "use no other categories", type=names, metavar="NAME,NAME")
    thres: str = option("auto", THRESHOLDS, choices=("auto", "img", "bbox", "bbox-kp"))

    @property
    def own(self) -> dict[str, Any]:
        """Those given of the options that only some benchmarks understand."""
        given = {name: getattr(self, name) for name in ("images", "pairs", "val_share")}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class DataOptions(BenchmarkOptions):
    """A benchmark, and how it is read."""

    benchmark: str = option("synthetic", "synthetic needs no download", choices=BENCHMARKS)
    workers: int = option(
        2, "processes that load images; 0: the program itself", type=number(int, 0, 64), metavar="N"
    )
    on_bad_pair: str = option("stop", "what an unreadable pair does to the run", choices=("stop", "skip"))
