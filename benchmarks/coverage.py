"""How often intervals cover the truth: python benchmarks/coverage.py [--draws 1000]

Two worlds whose true PCK is known. "independent": a pair has a difficulty of its own. "shared images": a pair's
difficulty is that of its images, of which there are fewer than pairs. From each, lists of pairs are drawn, and their
intervals taken as an evaluation does.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from dhpf.evaluation.intervals import (
    LEVEL,
    PairSums,
    draw_counts,
    image_weights,
    percentile_interval,
    resample,
)

PAIRS, IMAGES = 300, 80  # of a list
WORLDS = ("independent", "shared images")


def drawn_list(world: str, rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
    """The PCK of each pair of a list, and its two images. The truth is 60 %."""
    source, target = rng.integers(0, IMAGES, (2, PAIRS))
    if world == "independent":
        share = rng.beta(1.2, 0.8, PAIRS)
    else:
        easy = rng.uniform(-0.2, 0.2, IMAGES)
        share = 0.6 + easy[source] + easy[target]
    points = rng.integers(4, 16, PAIRS)
    return 100 * rng.binomial(points, share) / points, source, target


def covered(draws: int, world: str = "independent") -> tuple[float, float]:
    """The share of lists whose interval covers the truth, by pairs and by images."""
    rng, counts = np.random.default_rng(1), np.zeros(2)
    for _ in range(draws):
        values, source, target = drawn_list(world, rng)
        sums = PairSums(
            values[:, None], np.ones((PAIRS, 1)), np.zeros(1, dtype=bool), np.zeros(PAIRS, dtype=np.int64)
        )
        for k, weights in enumerate(
            (draw_counts(PAIRS, PAIRS), image_weights(source.astype(str), target.astype(str)))
        ):
            found = percentile_interval(resample(sums, weights, [np.arange(PAIRS)])[0][:, 0])
            assert found is not None
            counts[k] += found[0] <= 60 <= found[1]
    by_pair, by_image = counts / draws
    return float(by_pair), float(by_image)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    print(f"share of {draws} lists of {PAIRS} pairs whose {LEVEL:.0%} interval covers the true PCK")
    for world in WORLDS:
        by_pair, by_image = covered(draws, world)
        print(f"{world:14} by pairs {by_pair:.1%}, by images {by_image:.1%}", flush=True)


if __name__ == "__main__":
    main()
