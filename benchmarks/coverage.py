"""How often intervals cover the truth: python benchmarks/coverage.py [--draws 1000]

Worlds whose true PCK is known. A pair is as difficult as its images, or has a difficulty of its own. Lists have the
shape of a benchmark's: how many pairs and images there are, and how many pairs show an image. From each world lists
are drawn, and their intervals computed as in an evaluation.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from dhpf.evaluation.intervals import KINDS, LEVEL, PairSums, group_intervals

# By world: pairs, images, and how much an image (not the pair) decides the difficulty.
WORLDS = {
    "PF-PASCAL's shape, independent pairs": (299, 506, 0.0),
    "PF-PASCAL's shape, images decide": (299, 506, 0.2),
    "PF-WILLOW's shape, independent pairs": (900, 100, 0.0),
    "PF-WILLOW's shape, images decide": (900, 100, 0.2),
    "300 pairs of 80 images, images decide": (300, 80, 0.2),
}
TRUTH = 60.0  # PCK in %


def draw_list(world: str, rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
    """The PCK of each pair of a list, and its two images."""
    pairs, images, share = WORLDS[world]
    source, target = rng.integers(0, images, (2, pairs))
    if share:
        easy = rng.uniform(-share, share, images)
        rate = TRUTH / 100 + easy[source] + easy[target]
    else:
        rate = rng.beta(1.2, 0.8, pairs)
    points = rng.integers(4, 16, pairs)
    return 100 * rng.binomial(points, rate) / points, source, target


def coverage(draws: int, world: str) -> dict[str, float]:
    """The share of lists whose interval covers the truth, for each kind of interval."""
    rng, covered = np.random.default_rng(1), dict.fromkeys(KINDS, 0)
    for _ in range(draws):
        values, source, target = draw_list(world, rng)
        n = len(values)
        sums = PairSums(
            values[:, None], np.ones((n, 1)), np.zeros(1, dtype=bool), np.zeros(n, dtype=np.int64)
        )
        pairs = pd.DataFrame({"source": source.astype(str), "target": target.astype(str)})
        (found,) = group_intervals(sums, pairs, [np.ones(n, dtype=bool)])
        for kind, interval in found.intervals(0).items():
            assert interval is not None
            covered[kind] += interval[0] <= TRUTH <= interval[1]
    return {kind: count / draws for kind, count in covered.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    print(f"share of {draws} lists whose {LEVEL:.0%} interval covers the true PCK")
    for world in WORLDS:
        by_pairs, by_images = coverage(draws, world).values()
        print(f"{world:40} by pairs {by_pairs:6.1%}, by images {by_images:6.1%}", flush=True)


if __name__ == "__main__":
    main()
