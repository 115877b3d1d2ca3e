"""How far off figures may be by chance: bootstrap intervals of means and of their differences, and McNemar's test.

A mean is, by pair, a sum of values over their number; a resample weighs the pairs anew. The interval goes from the
2.5th to the 97.5th percentile of the resampled means (Efron's percentile interval).

- by pairs: as many pairs as there are, drawn with replacement. A pair weighs as often as it was drawn.
- by images: as many images as there are, drawn with replacement. A pair weighs the product of its two images' counts,
  so that pairs which share an image come and go together. The wider and, for lists that repeat images, the honest one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from dhpf.evaluation.metrics import Figure, Measure

RESAMPLES, SEED = 2000, 0
LEVEL = 0.95
BLOCK = 2**20  # weights at once
WORDS = (
    f"{LEVEL:.0%} percentile intervals from {RESAMPLES:,} bootstrap resamples: 'interval' of pairs, "
    "'interval_by_image' of images, a pair weighing the product of its images' counts"
).replace("%", " %")
Reals = NDArray[np.float64]


def blocks(n: int) -> Iterator[int]:
    """The numbers of resamples that are taken together, of n weights each."""
    size = max(1, BLOCK // max(n, 1))
    return (min(size, RESAMPLES - done) for done in range(0, RESAMPLES, size))


def drawn(n: int, pairs: int) -> Iterator[Reals]:
    """How often each of n units is drawn, n times with replacement: blocks [b, n], of b that suits weights of pairs."""
    rng = np.random.default_rng(SEED)
    for b in blocks(max(n, pairs)):
        units = rng.integers(0, n, (b, n)) + n * np.arange(b)[:, None]
        yield np.bincount(units.ravel(), minlength=b * n).reshape(b, n).astype(np.float64)


def by_pairs(n: int) -> Iterator[Reals]:
    """Weights of n pairs in every resample, in blocks."""
    return drawn(n, n)


def by_images(source: Sequence[str], target: Sequence[str]) -> Iterator[Reals]:
    """Weights of the pairs of these images in every resample of images, in blocks."""
    codes, images = pd.factorize(np.concatenate([source, target]))
    a, b = codes[: len(source)], codes[len(source) :]
    return (count[:, a] * count[:, b] for count in drawn(len(images), len(a)))


class Means(NamedTuple):
    """What F means over P pairs are made of.

    top, bottom: sums of values and their numbers, [P, F].  spread: for each mean whether it is that of the categories'
    means.  category: of each pair, a number from 0.
    """

    top: Reals
    bottom: Reals
    spread: NDArray[np.bool_]
    category: NDArray[np.int64]

    @classmethod
    def of(cls, table: pd.DataFrame, measures: Sequence[Measure]) -> "Means":
        """Of the pairs of a table in order, and of the values that a metric has of them."""
        pairs = table.drop_duplicates("pair").set_index("pair")
        tops, bottoms = [], []
        for _, values in measures:
            known = values.dropna()
            place = pairs.index.get_indexer(known.index)
            tops.append(np.bincount(place, known.to_numpy(), len(pairs)))
            bottoms.append(np.bincount(place, minlength=len(pairs)).astype(np.float64))
        spread = np.array([what["average"] == "categories" for what, _ in measures])
        return cls(np.stack(tops, 1), np.stack(bottoms, 1), spread, pd.factorize(pairs.category)[0])

    def __call__(self, weights: Reals, chosen: NDArray[np.int64]) -> Reals:
        """The means over chosen pairs under weights [b, P]: [b, F]; NaN: undefined."""
        found = np.empty((len(weights), len(self.spread)))
        category = self.category[chosen]
        parts = [chosen[category == c] for c in np.unique(category)]
        for columns, groups in ((~self.spread, [chosen]), (self.spread, parts)):
            if not columns.any():
                continue
            total, present = np.zeros((len(weights), columns.sum())), np.zeros((len(weights), columns.sum()))
            for group in groups:
                w = weights[:, group]
                top, bottom = (w @ part[np.ix_(group, columns)] for part in (self.top, self.bottom))
                there = bottom > 0
                total += np.divide(top, bottom, out=np.zeros_like(top), where=there)
                present += there
            found[:, columns] = np.divide(total, present, out=np.full_like(total, np.nan), where=present > 0)
        return found


def resampled(means: Means, weights: Iterator[Reals], groups: Sequence[NDArray[np.int64]]) -> list[Reals]:
    """The means over groups of pairs in every resample: [resamples, F] for each group."""
    found: list[list[Reals]] = [[] for _ in groups]
    for block in weights:
        for group, kept in zip(groups, found, strict=True):
            kept.append(means(block, group))
    return [np.concatenate(kept) for kept in found]


def bounds(values: Reals) -> list[float] | None:
    """The interval of resampled values; None where there is nothing to resample."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()


def add_intervals(
    table: pd.DataFrame, measures: Sequence[Measure], groups: Sequence[tuple[pd.Series, list[Figure]]]
) -> None:
    """Adds `interval` and `interval_by_image` to the figures of groups of pairs, given as booleans indexed by pair.

    None where a group has fewer than two pairs with values.
    """
    means = Means.of(table, measures)
    pairs = table.drop_duplicates("pair")
    usable = (means.bottom > 0).any(1)
    if not usable.any():
        for _, figures in groups:
            for figure in figures:
                figure |= {"interval": None, "interval_by_image": None}
        return
    place = np.cumsum(usable) - 1
    kept = Means(means.top[usable], means.bottom[usable], means.spread, means.category[usable])
    chosen = [place[group.to_numpy() & usable] for group, _ in groups]
    kinds = {
        "interval": by_pairs(int(usable.sum())),
        "interval_by_image": by_images(pairs.source[usable], pairs.target[usable]),
    }
    for name, weights in kinds.items():
        for (_, figures), values in zip(groups, resampled(kept, weights, chosen), strict=True):
            for figure, column in zip(figures, values.T, strict=True):
                figure[name] = bounds(column) if figure["n_pairs"] > 1 else None


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p of McNemar's test, from how many points only one of two runs predicts correctly."""
    both = only_first + only_second
    return float(binomtest(only_first, both, 0.5).pvalue) if both else 1.0


def written(interval: Sequence[float] | None, unit: str) -> str:
    """An interval as people write it."""
    digits = 2 if unit else 4
    return "undefined" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
