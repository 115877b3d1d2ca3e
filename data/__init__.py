"""The benchmarks as data sets of annotated image pairs, and their download. Files only, no model."""

from pathlib import Path

from data.benchmark import Benchmark
from data.caltech import Caltech
from data.download import SOURCES, ensure
from data.pfpascal import PFPascal
from data.pfwillow import PFWillow
from data.spair import SPair
from data.synthetic import Synthetic

BENCHMARKS: dict[str, type[Benchmark]] = {b.name: b for b in (Synthetic, PFPascal, PFWillow, Caltech, SPair)}


def open_benchmark(
    name: str, datapath: Path, split: str, thres: str = "auto", img_side: int = 240, download: bool = False
) -> Benchmark:
    """A split of a benchmark, fetched into `datapath` first if it is missing and `download` allows.

    Raises:
        UserError: it is missing, cannot be fetched, or cannot be used.
    """
    benchmark = BENCHMARKS[name]
    if name in SOURCES:
        ensure(name, datapath, download)
    return benchmark(datapath, split, thres, img_side)
