"""Checks a downloaded benchmark: every file that a split names is there, is readable and makes sense.

    python -m dhpf.data.verify --benchmark spair --datapath ../Datasets_DHPF

Prints what is wrong, a line each.  Exit code 0: nothing; 1: something is wrong; 2: the command was.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from dhpf.common.errors import UserError, naming
from dhpf.data.benchmark import Benchmark
from dhpf.data.caltech import Caltech
from dhpf.data.pfpascal import PFPascal
from dhpf.data.pfwillow import PFWillow
from dhpf.data.spair import SPair

BENCHMARKS: dict[str, type[Benchmark]] = {cls.name: cls for cls in (PFPascal, PFWillow, Caltech, SPair)}


@dataclass
class Report:
    """What was looked at, over all splits, and what is wrong with it."""

    pairs: int = 0
    images: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def verify(benchmark: type[Benchmark], datapath: str | Path) -> Report:
    """Opens every split, decodes every image once and reads every pair's annotation.

    Raises:
        UserError: the benchmark's folder is not there at all.
    """
    benchmark.require_folder(Path(datapath))
    report = Report()
    broken: set[str] = set()
    for split in benchmark.splits:
        try:
            dataset = benchmark(datapath, split)
        except UserError as error:
            report.problems.append(str(error))
            continue
        report.pairs += len(dataset)
        for i in tqdm(range(len(dataset)), f"{benchmark.folder} {split}", unit="pair", disable=None):
            verify_pair(dataset, i, report, broken)
    return report


def verify_pair(dataset: Benchmark, i: int, report: Report, broken: set[str]) -> None:
    """Adds what is wrong with pair i.  An image that many pairs share is reported once, with the first."""
    keys = {dataset.pairs[i].src_key, dataset.pairs[i].trg_key}
    for key in sorted(keys - report.images):
        report.images.add(key)
        try:
            dataset.image(key)
        except UserError as error:
            broken.add(key)
            report.problems.append(f"{dataset.where(i)}: {error}")
    try:
        if keys & broken:  # no size, so no frame, but the annotation's file can be read
            with naming(dataset.where(i)):
                dataset.complete(dataset.pairs[i])
        else:
            dataset.annotation(i)
    except UserError as error:
        report.problems.append(str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dhpf.data.verify", description="Check a benchmark's folder."
    )
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--datapath", default="../Datasets_DHPF", help="folder of the benchmarks' folders")
    options = parser.parse_args(arguments)
    try:
        report = verify(BENCHMARKS[options.benchmark], options.datapath)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for problem in report.problems:
        print(problem)
    print(
        f"{options.benchmark}: {report.pairs} pairs, {len(report.images)} images, "
        f"{len(report.problems) or 'no'} problems"
    )
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
