"""The benchmarks as data sets of annotated image pairs, and their download. Files only, no model.

To add a benchmark: a class (see `data.benchmark.Benchmark`), entered in `BENCHMARKS`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhpf.common.errors import UserError
from dhpf.common.registry import Registry

if TYPE_CHECKING:
    from dhpf.data.benchmark import Benchmark

DATAPATH = "../Datasets_DHPF"  # where benchmarks lie, unless another folder is named
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
    datapath: str | Path = DATAPATH,
    split: str | None = None,
    thres: str = "auto",
    img_side: int = 240,
    download: bool = False,
    *,
    categories: str | Sequence[str] = (),
    pair_list: str | Path | None = None,
    evaluation: bool = True,
    **own: Any,
) -> "Benchmark":
    """A split of a benchmark; the arguments are the programs' options.

    Args:
        split: None: the one that is tested.
        download: fetch it into `datapath` first if it is missing.
        categories: only these, as a sequence or as 'cat,dog'.
        pair_list: read instead of the benchmark's own (`--list`).
        evaluation: each pair once and none mirrored; False: as they are trained on.
        own: `images`, `pairs` and `val_share`, which only one's own data understand.
    Raises:
        UserError: it is missing, cannot be fetched, or cannot be used.
    """
    datapath = Path(datapath)
    if isinstance(categories, str):
        categories = [category.strip() for category in categories.split(",")]
    benchmark = BENCHMARKS[name]
    split = split or benchmark.test_split
    # Not above: heavy, and `python -m` runs the one behind it after this package.
    from dhpf.data.sources import parts_of

    if parts_of(benchmark) and (
        benchmark.find_folder(datapath) or not benchmark.find_datapath_below(datapath)
    ):
        from dhpf.data.download import ensure

        ensure(benchmark, datapath, download, "" if pair_list else split)
    check_options(benchmark, own)
    restrictions: dict[str, Any] = {"pair_list": pair_list, "only": categories, "evaluation": evaluation}
    return benchmark(datapath, split, thres, img_side, **restrictions, **own)


def check_options(benchmark: "type[Benchmark]", own: Mapping[str, Any]) -> None:
    """Raises: UserError: one of the options, which only some benchmarks understand, is none of this one."""
    for option in own:
        if option not in benchmark.options:
            raise UserError(f"--{option.replace('_', '-')}: benchmark {benchmark.name} does not use it")
