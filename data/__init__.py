"""The benchmarks as data sets of annotated image pairs, and their download. Files only, no model.

To add a benchmark: a class (see `data.benchmark.Benchmark`), entered in `BENCHMARKS`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dhpf.common.errors import UserError
from dhpf.common.registry import Registry

if TYPE_CHECKING:
    from dhpf.data.benchmark import Benchmark

MAX_PIXELS = 200_000_000  # of an image that is decoded: as many as the largest photographs of a telephone

BENCHMARKS: "Registry[type[Benchmark]]" = Registry(
    "benchmark",
    {
        "synthetic": "dhpf.data.synthetic:Synthetic",
        "pfpascal": "dhpf.data.pfpascal:PFPascal",
        "pfwillow": "dhpf.data.pfwillow:PFWillow",
        "caltech": "dhpf.data.caltech:Caltech",
        "spair": "dhpf.data.spair:SPair",
        "spairu": "dhpf.data.spairu:SPairU",
        "ap10k": "dhpf.data.ap10k:AP10K",
        "coco": "dhpf.data.coco:Coco",
        "table": "dhpf.data.pair_table:PairTable",
    },
)


def open_benchmark(
    name: str,
    datapath: Path,
    split: str | None = None,
    thres: str = "auto",
    img_side: int = 240,
    download: bool = False,
    own: Mapping[str, Any] = MappingProxyType({}),
    **restrictions: Any,
) -> "Benchmark":
    """A split of a benchmark (None: the one that is tested), fetched into `datapath` first if it is missing and
    `download` allows.

    Args: own: the options given that only some benchmarks understand; restrictions: which list and which of its
    pairs, see `data.benchmark.Benchmark`.
    Raises:
        UserError: it is missing, cannot be fetched, or cannot be used.
    """
    benchmark = BENCHMARKS[name]
    split = split or benchmark.test_split
    from dhpf.data.sources import (
        parts_of,
    )  # not above: heavy, and `python -m` runs the next after this package

    if parts_of(benchmark) and (
        benchmark.find_folder(datapath) or not benchmark.find_datapath_below(datapath)
    ):
        from dhpf.data.download import ensure

        ensure(benchmark, datapath, download, "" if restrictions.get("pair_list") else split)
    check_options(benchmark, own)
    return benchmark(datapath, split, thres, img_side, **restrictions, **own)


def check_options(benchmark: "type[Benchmark]", own: Mapping[str, Any]) -> None:
    """Raises: UserError: one of the options, which only some benchmarks understand, is none of this one."""
    for option in own:
        if option not in benchmark.options:
            raise UserError(f"--{option.replace('_', '-')}: benchmark {benchmark.name} has no use for it")
