"""How far off figures may be by chance: intervals of figures and of their differences, and McNemar's test.

- by pairs (`interval`): the bootstrap. As many pairs as the list has are drawn with replacement, 2,000 times. The
  interval goes from the 2.5th to the 97.5th percentile of their means (Efron's percentile interval). It takes pairs as
  independent of each other.
- by images (`interval_by_image`): pairs that share an image depend on each other. The variance is the dyadic-robust one
  (Fafchamps and Gubert 2007; Aronow, Samii and Assenova 2015): the sum of e_p e_q over all pairs p and q that share an
  image, over P². e_p is P times the influence of pair p on the figure; for a plain mean, its deviation from the mean.
  Resampling of such arrays: Owen and Eckles 2012 (arXiv 1106.2125), Davezies, D'Haultfœuille and Guyonvarch 2021
  (arXiv 1906.11293).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from dhpf.evaluation.metrics import Figure, Measure, Reals

RESAMPLES, SEED = 2000, 0
LEVEL = 0.95
MAX_WEIGHTS = 2**20  # in memory at once
KINDS = ("interval", "interval_by_image")
QUANTILE = 1.96  # of the normal distribution, for 95 %
FEW_PAIRS = 40  # of fewer an interval means little
DESCRIPTION = (
    f"95 % intervals. By pairs (interval): {RESAMPLES:,} bootstrap resamples of the pairs. By images "
    f"(interval_by_image): allows for pairs that share images. Of fewer than {FEW_PAIRS} pairs, or at 0 or 100 %, they "
    "mean little."
)


def draw_counts(units: int, pairs: int) -> Iterator[Reals]:
    """How often each unit is drawn in every resample, in blocks [b, units] that suit weights of so many pairs."""
    rng = np.random.default_rng(SEED)
    size = max(1, MAX_WEIGHTS // max(units, pairs, 1))
    for first in range(0, RESAMPLES, size):
        b = min(size, RESAMPLES - first)
        drawn = rng.integers(0, units, (b, units)) + units * np.arange(b)[:, None]
        yield np.bincount(drawn.ravel(), minlength=b * units).reshape(b, units).astype(np.float64)


class PairSums(NamedTuple):
    """What F means over P pairs are taken from.

    sums, counts: the sum of each pair's values and their number, [P, F].
    by_category: whether a mean is that of the categories' means, [F].
    category: of each pair, a number from 0, [P].
    """

    sums: Reals
    counts: Reals
    by_category: NDArray[np.bool_]
    category: NDArray[np.int64]

    @classmethod
    def of(cls, table: pd.DataFrame, measures: Sequence[Measure]) -> "PairSums":
        """Of the pairs of a table in order, and of the values that a metric has of them."""
        pairs = table.drop_duplicates("pair").set_index("pair")
        grouped = [values.groupby(level=0) for _, values in measures]
        sums = pd.DataFrame(dict(enumerate(groups.sum() for groups in grouped)), pairs.index)
        counts = pd.DataFrame(dict(enumerate(groups.count() for groups in grouped)), pairs.index)
        by_category = np.array([definition["average"] == "categories" for definition, _ in measures])
        category = pd.factorize(pairs.category)[0]
        return cls(sums.fillna(0).to_numpy(), counts.fillna(0).to_numpy(float), by_category, category)

    def means(self, weights: Reals, chosen: NDArray[np.int64]) -> Reals:
        """The means over chosen pairs under weights [b, P]: [b, F]; NaN: undefined."""
        result = np.empty((len(weights), len(self.by_category)))
        category = self.category[chosen]
        categories = [chosen[category == c] for c in np.unique(category)]
        for figures, groups in ((~self.by_category, [chosen]), (self.by_category, categories)):
            if not figures.any():
                continue
            total, defined = np.zeros((2, len(weights), figures.sum()))
            for group in groups:
                w = weights[:, group]
                sums, counts = (w @ part[np.ix_(group, figures)] for part in (self.sums, self.counts))
                total += np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
                defined += counts > 0
            result[:, figures] = np.divide(total, defined, out=np.full_like(total, np.nan), where=defined > 0)
        return result

    def influences(self, chosen: NDArray[np.int64]) -> Reals:
        """How much each of n chosen pairs moves the means over them, times n: [n, F]. Ratios are linearised."""
        n, result = len(chosen), np.zeros((len(chosen), len(self.by_category)))
        category = self.category[chosen]
        present = [np.flatnonzero(category == c) for c in np.unique(category)]
        for figures, groups in ((~self.by_category, [np.arange(n)]), (self.by_category, present)):
            defined = np.zeros(figures.sum())
            part = np.zeros((n, figures.sum()))
            for group in groups:
                sums, counts = (x[np.ix_(chosen[group], figures)] for x in (self.sums, self.counts))
                total = counts.sum(0)
                known = np.maximum(total, 1)
                part[group] = (sums - sums.sum(0) / known * counts) * n / known
                defined += total > 0
            result[:, figures] = part / np.maximum(defined, 1)
        return result


def resample(sums: PairSums, weights: Iterable[Reals], groups: Sequence[NDArray[np.int64]]) -> list[Reals]:
    """The means over groups of pairs in every resample: [resamples, F] for each group."""
    blocks = [[sums.means(block, group) for group in groups] for block in weights]
    return [np.concatenate(of_group) for of_group in zip(*blocks, strict=True)]


def dyadic_error(influences: Reals, source: NDArray[np.int64], target: NDArray[np.int64]) -> Reals:
    """Standard error of F figures whose pairs share images, never below that of independent pairs: [F].

    Args: influences: as `PairSums.influences` gives them, [n, F]; source, target: numbers of each pair's images, [n].
    """
    n = len(influences)
    # Pairs that share an image are found by image; those that share both are found twice.
    first, second = np.minimum(source, target), np.maximum(source, target)
    both = pd.factorize(pd.MultiIndex.from_arrays([first, second]))[0]
    two = first != second
    by_image, by_images = np.zeros(
        (2, max(second.max(initial=0), both.max(initial=0)) + 1, influences.shape[1])
    )
    np.add.at(by_image, first, influences)
    np.add.at(by_image, second[two], influences[two])
    np.add.at(by_images, both[two], influences[two])
    shared = (by_image**2).sum(0) - (by_images**2).sum(0)
    return np.sqrt(np.maximum(shared, (influences**2).sum(0))) / max(n, 1)


@dataclass(frozen=True)
class GroupIntervals:
    """What the intervals of F figures over a group of pairs are taken from.

    resampled: the figures in every resample, [resamples, F].  influences: [n, F].  values: the figures, [F].
    source, target: numbers of the pairs' images, [n].
    """

    resampled: Reals
    influences: Reals
    values: Reals
    source: NDArray[np.int64]
    target: NDArray[np.int64]

    def intervals(self, figure: int, minus: int | None = None) -> dict[str, list[float] | None]:
        """The intervals of a figure, or of its difference from another, by `KINDS`; None: fewer than two pairs, or
        undefined."""
        resampled, influences = self.resampled[:, figure], self.influences[:, [figure]]
        value = self.values[figure]
        if minus is not None:
            resampled = resampled - self.resampled[:, minus]
            influences = influences - self.influences[:, [minus]]
            value = value - self.values[minus]
        if len(influences) < 2 or np.isnan(value):
            return dict.fromkeys(KINDS)
        error = QUANTILE * float(dyadic_error(influences, self.source, self.target)[0])
        return {
            "interval": percentile_interval(resampled),
            "interval_by_image": [float(value) - error, float(value) + error],
        }


def group_intervals(
    sums: PairSums, pairs: pd.DataFrame, groups: Sequence[NDArray[np.bool_]]
) -> list[GroupIntervals]:
    """For each group what its intervals are taken from. A pair without any value is left out.

    Args: pairs: P rows with source and target; groups: for each pair whether it is in the group, [P].
    """
    usable = (sums.counts > 0).any(1)
    left = PairSums(sums.sums[usable], sums.counts[usable], sums.by_category, sums.category[usable])
    chosen = [np.flatnonzero(group[usable]) for group in groups]
    n = len(left.category)
    numbers = pd.factorize(np.concatenate([pairs.source[usable], pairs.target[usable]]))[0]
    nothing = np.empty((0, len(sums.by_category)))
    resampled = resample(left, draw_counts(n, n), chosen) if n else [nothing] * len(groups)
    every = np.ones((1, n))
    return [
        GroupIntervals(
            drawn, left.influences(group), left.means(every, group)[0], numbers[:n][group], numbers[n:][group]
        )
        for group, drawn in zip(chosen, resampled, strict=True)
    ]


def percentile_interval(values: Reals) -> list[float] | None:
    """The interval of resampled values; None where there is nothing to resample."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def add_intervals(
    table: pd.DataFrame, measures: Sequence[Measure], groups: Sequence[tuple[pd.Series, list[Figure]]]
) -> None:
    """Adds `KINDS` to the figures of groups of pairs, given as booleans indexed by pair.

    They are None where a group has fewer than two pairs with values.
    """
    masks = [group.to_numpy() for group, _ in groups]
    found = group_intervals(PairSums.of(table, measures), table.drop_duplicates("pair"), masks)
    for (_, figures), of_group in zip(groups, found, strict=True):
        for number, figure in enumerate(figures):
            figure |= of_group.intervals(number) if figure["n_pairs"] > 1 else dict.fromkeys(KINDS)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar's test, from how many points only one of two runs predicts correctly."""
    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def format_interval(interval: Sequence[float] | None, unit: str) -> str:
    """An interval as people write it."""
    digits = 2 if unit else 4
    return "undefined" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
