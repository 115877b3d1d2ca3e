"""Search for the hyperpixel layers that match best; see `python search.py --help` and docs/search.md."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhpf.common.options import OutputOptions, Parser, number, option
from dhpf.common.program import program
from dhpf.data.options import DataOptions
from dhpf.model import file_name
from dhpf.model.options import DEFAULT_BACKBONE, LoadOptions, ModelOptions

# What may differ when a search is resumed: it does not change what is found.
FREE = {"resume", "logpath", "datapath", "device", "workers", "no_download", "backbone_weights", "images"}
FREE |= {"bsz", "cache_gb", "max_layers", "quiet"}
EXAMPLES = (
    "python search.py --benchmark pfpascal --backbone resnet101 --logpath layers",
    "python search.py --resume logs/layers",
)


@dataclass(frozen=True)
class SearchingOptions:
    beam: int = option(4, "subsets of each size that get another layer", type=number(int, 1), metavar="N")
    max_layers: int = option(8, "layers of the largest subsets", type=number(int, 1), metavar="N")
    split: str | None = option("val", "pairs to measure on: trn, val, ...", metavar="SPLIT")
    alpha: float = option(0.1, "PCK's alpha", type=number(float, 0, 1, above=True), metavar="A")
    bsz: int = option(4, "pairs compared together on a GPU", type=number(int, 1), metavar="N")
    cache_gb: float = option(
        4.0, "memory for the codes of images that are kept, in GB", type=number(float, 0), metavar="GB"
    )
    seed: int = option(0, "draws the pairs", type=number(int, 0, 2**32 - 1), metavar="N")
    resume: Path | None = option(None, "continue the search of this folder", type=Path, metavar="RUN_FOLDER")


@dataclass(frozen=True)
class SearchOptions(OutputOptions, ModelOptions, LoadOptions, DataOptions, SearchingOptions):
    """All options of `search.py`."""

    pairs: int = option(200, "pairs to measure on, drawn from --seed", type=number(int, 1), metavar="N")

    @property
    def own(self) -> dict[str, Any]:
        """As that of `BenchmarkOptions`, where `pairs` are those of a category."""
        return {name: value for name, value in super().own.items() if name != "pairs"}


@program
def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(
        SearchOptions,
        "Search for the hyperpixel layers that match best where every pair uses the same: beam search, one layer "
        "added at a time. Without --load on the backbone's raw features, with it on the learned ones. The result, "
        "layers.json, is for --layers @layers.json of test.py, match.py and train.py.",
        EXAMPLES,
    )
    options: SearchOptions = parser.parse_resumable(arguments, FREE)
    backbone = file_name(options.backbone or DEFAULT_BACKBONE)
    name = f"search-{options.benchmark}-{backbone}-{time.strftime('%Y%m%d-%H%M%S')}"
    from dhpf.programs.searching import search  # torch: not needed to refuse an option

    search(options, options.resume or options.run_folder or Path("logs") / name)
