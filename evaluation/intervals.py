"""How far off figures may be by chance: bootstrap intervals of means and of their differences, and McNemar's test.

A mean is a sum of values over their number, both added up by pair. A resample weighs the pairs anew. The interval goes
from the 2.5th to the 97.5th percentile of the resampled means (Efron's percentile interval).

- by pairs: as many pairs as there are, drawn with replacement. A pair weighs as often as it was drawn.
- by images: as many images as there are, drawn with replacement. A pair weighs the product of its two images' counts,
  so that pairs which share an image come and go together. The wider and, for lists that repeat images, the honest one.
"""

from collections.abc import Iterable, Iterator, Sequence
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
DESCRIPTION = (
    f"{LEVEL:.0%} percentile intervals from {RESAMPLES:,} bootstrap resamples: 'interval' of pairs, "
    "'interval_by_image' of images, a pair weighing the product of its images' counts"
).replace("%", " %")


def draw_counts(units: int, pairs: int) -> Iterator[Reals]:
    """How often each unit is drawn in every resample, in blocks [b, units] that suit weights of so many pairs."""
    rng = np.random.default_rng(SEED)
    size = max(1, MAX_WEIGHTS // max(units, pairs, 1))
    for first in range(0, RESAMPLES, size):
        b = min(size, RESAMPLES - first)
        drawn = rng.integers(0, units, (b, units)) + units * np.arange(b)[:, None]
        yield np.bincount(drawn.ravel(), minlength=b * units).reshape(b, units).astype(np.float64)


def image_weights(source: Sequence[str], target: Sequence[str]) -> Iterator[Reals]:
    """Weights of the pairs of these images in every resample of images, in blocks [b, P]."""
    codes, images = pd.factorize(np.concatenate([source, target]))
    a, b = codes[: len(source)], codes[len(source) :]
    return (counts[:, a] * counts[:, b] for counts in draw_counts(len(images), len(a)))


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


def resample(sums: PairSums, weights: Iterable[Reals], groups: Sequence[NDArray[np.int64]]) -> list[Reals]:
    """The means over groups of pairs in every resample: [resamples, F] for each group."""
    blocks = [[sums.means(block, group) for group in groups] for block in weights]
    return [np.concatenate(of_group) for of_group in zip(*blocks, strict=True)]


def resample_groups(
    sums: PairSums, pairs: pd.DataFrame, groups: Sequence[NDArray[np.bool_]]
) -> dict[str, list[Reals]]:
    """For each of `KINDS` the means over groups of pairs in every resample: [resamples, F] for each group.

    A pair without any value is never drawn.
    Args: pairs: P rows with source and target; groups: for each pair whether it is in the group, [P].
    """
    usable = (sums.counts > 0).any(1)
    if not usable.any():
        return dict.fromkeys(KINDS, [np.empty((0, len(sums.by_category)))] * len(groups))
    left = PairSums(sums.sums[usable], sums.counts[usable], sums.by_category, sums.category[usable])
    chosen = [np.flatnonzero(group[usable]) for group in groups]
    n = len(left.category)
    weights = draw_counts(n, n), image_weights(pairs.source[usable], pairs.target[usable])
    return {kind: resample(left, blocks, chosen) for kind, blocks in zip(KINDS, weights, strict=True)}


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
    chosen = [group.to_numpy() for group, _ in groups]
    resampled = resample_groups(PairSums.of(table, measures), table.drop_duplicates("pair"), chosen)
    for kind, of_groups in resampled.items():
        for (_, figures), values in zip(groups, of_groups, strict=True):
            for figure, column in zip(figures, values.T, strict=True):
                figure[kind] = percentile_interval(column) if figure["n_pairs"] > 1 else None


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar's test, from how many points only one of two runs predicts correctly."""
    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def format_interval(interval: Sequence[float] | None, unit: str) -> str:
    """An interval as people write it."""
    digits = 2 if unit else 4
    return "undefined" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
