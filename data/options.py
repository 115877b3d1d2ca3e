"""The options of all that opens a benchmark."""

from dataclasses import dataclass
from pathlib import Path

from dhpf.common.options import names, number, option
from dhpf.data import BENCHMARKS

THRESHOLDS = """what PCK is relative to. img: the side of the frame; bbox: the larger side of the target's
box, on PF-WILLOW the published max(x, y) + 1 over its key-points; bbox-kp: the true extent of the target's
key-points; auto: the benchmark's own, img on PF-PASCAL, bbox elsewhere; Caltech-101 needs none"""


@dataclass(frozen=True)
class DataOptions:
    benchmark: str = option("synthetic", "synthetic needs no download", choices=BENCHMARKS)
    datapath: Path = option(
        Path("../Datasets_DHPF"), "folder of the benchmarks' folders", type=Path, metavar="DIR"
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
    workers: int = option(
        2, "processes that load images; 0: the program itself", type=number(int, 0, 64), metavar="N"
    )
    on_bad_pair: str = option("stop", "what an unreadable pair does to the run", choices=("stop", "skip"))
