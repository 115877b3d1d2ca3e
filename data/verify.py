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
from dhpf.data.benchmark import Array, Benchmark, Pair
from dhpf.data.own_data import OwnData

# Those that lie in a folder, and one's own data.
BENCHMARKS = {name: kind for name, kind in data.BENCHMARKS.items() if kind.lists or issubclass(kind, OwnData)}
TOLERANCE_PX = 2  # that a point may be outside of its image or its box: outlines and roundings are
MAX_PROBLEMS = 100  # that are printed of a split


@dataclass
class Report:
    """What was looked at, over all splits, and what is wrong with it."""

    pairs: int = 0
    images: dict[Path, bool] = field(default_factory=dict)  # whether each can be decoded
    found: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def verify(benchmark: type[Benchmark], datapath: str | Path, **own: Any) -> Report:
    """Opens every split, of one's own data the file or the three, decodes every image once, reads every annotation.

    Raises:
        UserError: the benchmark's folder is not there at all.
    """
    benchmark.require_folder(Path(datapath))
    report = Report()
    three = str(datapath).count(",") == 2 and not Path(datapath).is_file()
    for split in benchmark.splits if benchmark.lists else ("trn", "val", "test") if three else ["whole"]:
        try:
            dataset = benchmark(datapath, split, **own)
        except UserError as error:
            report.problems.append(str(error))
            continue
        other_list = split in benchmark.published and not dataset.is_published
        problems = dataset.notes[1:2] if other_list else []
        report.pairs += len(dataset)
        report.found += [note for note in dataset.notes if note not in problems]
        check = SplitCheck(dataset, report.images, problems)
        for i in tqdm(range(len(dataset)), f"{benchmark.folder} {split}", unit="pair", disable=None):
            check.check_pair(i)
        if len(problems) > MAX_PROBLEMS:
            problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} more"]
        problems += check.summary()
        report.problems += [f"{benchmark.name} {split}: {problem}" for problem in problems]
    return report


class SplitCheck:
    """Checks the pairs of a split, one after another.

    Args: images: what is known of images, and is added to: an image that many pairs share is reported once; problems:
    what is wrong with single pairs is added to it.
    """

    def __init__(self, dataset: Benchmark, images: dict[Path, bool], problems: list[str]) -> None:
        self.dataset, self.images, self.problems = dataset, images, problems
        self.outside: list[str] = []  # where the list names pairs with points outside their image
        self.no_threshold: list[str] = []
        self.boxes = self.odd_boxes = 0

    def check_pair(self, i: int) -> None:
        pair, where = self.dataset.pairs[i], self.dataset.where(i)
        keys = {self.dataset.root / key: key for key in (pair.src_key, pair.trg_key)}
        for path in sorted(keys.keys() - self.images.keys()):
            self.images[path] = True
            try:
                self.dataset.pil_image(keys[path])
            except UserError as error:
                self.images[path] = False
                self.problems.append(f"{where}: {error}")
        try:
            with error_context(where):
                pair = self.dataset.complete(pair)
                if all(map(self.images.get, keys)):  # else there is no size, so no frame
                    self._check_geometry(pair, where)
                    sample = self.dataset.in_frame(i, pair)
                    if sample["n_pts"] and not sample["pckthres"]:
                        self.no_threshold.append(where)
        except UserError as error:
            self.problems.append(str(error))

    def _check_geometry(self, pair: Pair, where: str) -> None:
        """Notes points outside their image, and boxes that leave it or exclude most of their points."""
        ends = (pair.src_key, pair.src_kps, pair.src_bbox), (pair.trg_key, pair.trg_kps, pair.trg_bbox)
        any_outside = False
        for key, kps, box in ends:
            frame = np.array((0, 0, *self.dataset.size(key)))
            any_outside |= bool(is_outside(kps, frame).any())
            if box is not None:
                odd = is_outside(box.reshape(2, 2).T, frame).any()
                odd |= bool(kps.size) and is_outside(kps, box).mean() > 0.5
                self.boxes, self.odd_boxes = self.boxes + 1, self.odd_boxes + int(odd)
        if any_outside:
            self.outside.append(where)

    def summary(self) -> list[str]:
        """What is odd about all pairs together."""
        counted = {"key-points outside their image": self.outside, "a threshold of zero": self.no_threshold}
        lines = [f"{len(w)} pairs have {what}, first {w[0]}" for what, w in counted.items() if w]
        if self.odd_boxes * 2 > self.boxes:
            lines.append(
                f"{self.odd_boxes} of {self.boxes} boxes leave their image or exclude their key-points: "
                f"are they {self.dataset.likely_box_error}?"
            )
        return lines


def is_outside(points: Array, box: Array) -> NDArray[np.bool_]:
    """Which points [2, n] are outside a box (x1 y1 x2 y2) by more than some pixels: [n]."""
    low, high = box[:2, None] - TOLERANCE_PX, box[2:, None] + TOLERANCE_PX
    return np.any((points < low) | (points > high), axis=0)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dhpf.data.verify", description="Check a benchmark's folder."
    )
    parser.add_argument("--version", action="version", version=f"DHPF {__version__}")
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--datapath", default="../Datasets_DHPF", help="folder that holds the benchmarks")
    parser.add_argument("--images", type=Path, help="coco: folder of the images")
    options = parser.parse_args(arguments)
    benchmark, own = BENCHMARKS[options.benchmark], {"images": options.images} if options.images else {}
    try:
        data.check_options(benchmark, own)
        report = verify(benchmark, options.datapath, **own)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(*report.found, *report.problems, sep="\n")
    count = f"{len(report.problems) or 'no'} problems"
    print(f"{options.benchmark}: {report.pairs} pairs, {len(report.images)} images, {count}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
