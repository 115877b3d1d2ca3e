"""The benchmarks as data sets of annotated image pairs, and their download. Files only, no model.

To add a benchmark: a class (see `data.benchmark.Benchmark`), entered in `BENCHMARKS`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhpf.common.registry import Registry

if TYPE_CHECKING:
    from dhpf.data.benchmark import Benchmark

BENCHMARKS: "Registry[type[Benchmark]]" = Registry(
    "benchmark",
    {
        "synthetic": "dhpf.data.synthetic:Synthetic",
        "pfpascal": "dhpf.data.pfpascal:PFPascal",
        "pfwillow": "dhpf.data.pfwillow:PFWillow",
        "caltech": "dhpf.data.caltech:Caltech",
        "spair": "dhpf.data.spair:SPair",
    },
)


def open_benchmark(
    name: str,
    datapath: Path,
    split: str,
    thres: str = "auto",
    img_side: int = 240,
    download: bool = False,
    **restrictions: Any,
) -> "Benchmark":
    """A split of a benchmark, fetched into `datapath` first if it is missing and `download` allows.

    Args: restrictions: which list and which of its pairs, see `data.benchmark.Benchmark`.
    Raises:
        UserError: it is missing, cannot be fetched, or cannot be used.
    """
    benchmark = BENCHMARKS[name]
    if benchmark.archive:
        from dhpf.data.download import ensure  # not above: `python -m` runs it after this package

        known = benchmark.folder_in(datapath) or benchmark.folder_deeper(datapath)
        if known in (None, datapath / benchmark.folder):
            ensure(benchmark, datapath, download)
    return benchmark(datapath, split, thres, img_side, **restrictions)
