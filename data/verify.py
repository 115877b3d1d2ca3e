"""Checks a benchmark's folder: what was found, whether its lists are the published ones, and every file that they name.

    python -m dhpf.data.verify --benchmark spair --datapath ../Datasets_DHPF

Prints what was found and what is wrong, a line each.  Exit code 0: nothing; 1: something is wrong; 2: the command was.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dhpf import data
from dhpf.common import __version__
from dhpf.common.errors import UserError, error_context
from dhpf.data import checked
from dhpf.data.benchmark import Array, Benchmark, Pair
from dhpf.data.own_data import OwnData

# Those that lie in a folder, and one's own data.
BENCHMARKS = {name: kind for name, kind in data.BENCHMARKS.items() if kind.lists or issubclass(kind, OwnData)}
SLACK = 2  # pixels that a point may be outside of its image or its box: outlines and roundings are
SHOWN = 100  # problems of a split


@dataclass
class Report:
    """What was looked at, over all splits, and what is wrong with it."""

    pairs: int = 0
    images: set[str] = field(default_factory=set)
    found: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Doubts:
    """What is odd about a split's pairs, told together: places of pairs, and numbers of boxes."""

    outside: list[str] = field(default_factory=list)
    no_threshold: list[str] = field(default_factory=list)
    boxes: int = 0
    odd_boxes: int = 0

    def __str__(self) -> str:
        told = []
        if self.outside:
            told.append(
                f"{len(self.outside)} pairs have key-points outside their image, first {self.outside[0]}"
            )
        if self.no_threshold:
            told.append(
                f"{len(self.no_threshold)} pairs have a threshold of zero, first {self.no_threshold[0]}"
            )
        if self.odd_boxes * 2 > self.boxes:
            told.append(
                f"{self.odd_boxes} of {self.boxes} boxes leave their image or exclude their key-points: "
                "are they x y w h where x1 y1 x2 y2 belongs?"
            )
        return "\n".join(told)


def verify(benchmark: type[Benchmark], datapath: str | Path, **own: Any) -> Report:
    """Opens every split, of one's own data the file or the three, decodes every image once, reads every annotation.

    Raises:
        UserError: the benchmark's folder is not there at all.
    """
    benchmark.require_folder(Path(datapath))
    report = Report()
    broken: set[str] = set()
    three = str(datapath).count(",") == 2 and not Path(datapath).is_file()
    for split in benchmark.splits if benchmark.lists else ("trn", "val", "test") if three else ["whole"]:
        try:
            dataset = benchmark(datapath, split, **own)
        except UserError as error:
            report.problems.append(str(error))
            continue
        other = split in benchmark.published and not dataset.is_published
        doubts, problems = Doubts(), dataset.notes[1:2] if other else []
        report.pairs += len(dataset)
        report.found += [note for note in dataset.notes if note not in problems]
        for i in tqdm(range(len(dataset)), f"{benchmark.folder} {split}", unit="pair", disable=None):
            problems += verify_pair(dataset, i, report.images, broken, doubts)
        if len(problems) > SHOWN:
            problems[SHOWN:] = [f"and {len(problems) - SHOWN} more"]
        report.problems += [
            f"{benchmark.name} {split}: {problem}" for problem in (*problems, *str(doubts).splitlines())
        ]
    return report


def verify_pair(dataset: Benchmark, i: int, images: set[str], broken: set[str], doubts: Doubts) -> list[str]:
    """What is wrong with pair i.  An image that many pairs share is reported once, with the first."""
    problems = []
    pair = dataset.pairs[i]
    paths = {str(dataset.root / key): key for key in (pair.src_key, pair.trg_key)}
    for path in sorted(paths.keys() - images):
        images.add(path)
        try:
            dataset.image(paths[path])
        except UserError as error:
            broken.add(path)
            problems.append(f"{dataset.where(i)}: {error}")
    try:
        with error_context(dataset.where(i)):
            pair = dataset.complete(pair)
            if not paths.keys() & broken:  # else there is no size, so no frame
                doubt(dataset, i, pair, doubts)
                sample = dataset.in_frame(i, pair)
                if sample["n_pts"] and not sample["pckthres"]:
                    doubts.no_threshold.append(dataset.where(i))
    except UserError as error:
        problems.append(str(error))
    return problems


def doubt(dataset: Benchmark, i: int, pair: Pair, doubts: Doubts) -> None:
    """Adds what is odd about a complete pair."""
    outside = False
    for key, kps, box in (
        (pair.src_key, pair.src_kps, pair.src_bbox),
        (pair.trg_key, pair.trg_kps, pair.trg_bbox),
    ):
        image = np.array((0, 0, *dataset.size(key)))
        outside |= bool(beyond(kps, image).any())
        if box is not None:
            doubts.boxes += 1
            odd = beyond(box.reshape(2, 2).T, image).any() or (kps.size and beyond(kps, box).mean() > 0.5)
            doubts.odd_boxes += bool(odd)
    if outside:
        doubts.outside.append(dataset.where(i))


def beyond(points: Array, box: Array) -> NDArray[np.bool_]:
    """Which points [2, n] are outside a box (x1 y1 x2 y2) by more than some pixels: [n]."""
    low, high = box[:2, None] - SLACK, box[2:, None] + SLACK
    return np.any((points < low) | (points > high), axis=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dhpf.data.verify", description="Check a benchmark's folder."
    )
    parser.add_argument("--version", action="version", version=f"DHPF {__version__}")
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--datapath", default="../Datasets_DHPF", help="folder of the benchmarks' folders")
    parser.add_argument("--images", type=Path, help="coco: folder of the images")
    options = parser.parse_args(arguments)
    benchmark, own = BENCHMARKS[options.benchmark], {"images": options.images} if options.images else {}
    try:
        report = verify(benchmark, options.datapath, **checked(benchmark, own))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for line in (*report.found, *report.problems):
        print(line)
    print(
        f"{options.benchmark}: {report.pairs} pairs, {len(report.images)} images, "
        f"{len(report.problems) or 'no'} problems"
    )
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
