"""The benchmarks as data sets of annotated image pairs, and their download. Files only, no model."""

from pathlib import Path

from dhpf.data.benchmark import Benchmark
from dhpf.data.caltech import Caltech
from dhpf.data.pfpascal import PFPascal
from dhpf.data.pfwillow import PFWillow
from dhpf.data.spair import SPair
from dhpf.data.synthetic import Synthetic

BENCHMARKS: dict[str, type[Benchmark]] = {b.name: b for b in (Synthetic, PFPascal, PFWillow, Caltech, SPair)}


def open_benchmark(
    name: str, datapath: Path, split: str, thres: str = "auto", img_side: int = 240, download: bool = False
) -> Benchmark:
    """A split of a benchmark, fetched into `datapath` first if it is missing and `download` allows.

    Raises:
        UserError: it is missing, cannot be fetched, or cannot be used.
    """
    from dhpf.data.download import SOURCES, ensure  # not above: `python -m` runs it after this package

    benchmark = BENCHMARKS[name]
    if name in SOURCES:
        ensure(name, datapath, download)
    return benchmark(datapath, split, thres, img_side)
