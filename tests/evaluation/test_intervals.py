"""Intervals and tests of differences: equal to scipy's and statsmodels', wide enough, and the same again."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from dhpf.evaluation import intervals
from dhpf.evaluation.figures import measure, score
from dhpf.evaluation.intervals import mcnemar
from tests.helpers.tables import random_pairs, table_of


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """40 pairs of 12 images, some without key-points, in two categories."""
    pairs = random_pairs(0, 40)
    ends = list(product("abcdefgh", "ijklm"))
    for (sample, _), (source, target) in zip(pairs, ends, strict=True):
        sample |= {"src_key": source, "trg_key": target, "category": "cat" if source < "d" else "dog"}
    return table_of(pairs)


def scipys(values: Any, statistic: Any) -> list[float]:
    """scipy's interval from the resamples that we draw: the generator's draws are the same."""
    found = bootstrap(
        values, statistic, n_resamples=intervals.RESAMPLES, method="percentile", paired=True,
        vectorized=False, random_state=np.random.default_rng(intervals.SEED),
    )  # fmt: skip
    return list(found.confidence_interval)


def test_intervals_by_pairs_are_scipys(table: pd.DataFrame) -> None:
    totals = score(table, (0.1,))["totals"]
    (_, by_pair), (_, by_point), *_ = measure(table, (0.1,))
    assert totals[0]["interval"] == pytest.approx(scipys((by_pair.to_numpy(),), np.mean), abs=1e-9)

    points = by_point.groupby(level=0)
    groups = table[table.n_pts > 0].drop_duplicates("pair").category.to_numpy() == "cat"

    def of_points(hits: Any, n: Any) -> float:
        return hits.sum() / n.sum()

    def of_categories(hits: Any, n: Any, cat: Any) -> float:
        return np.mean([hits[g].sum() / n[g].sum() for g in (cat > 0, cat == 0) if g.any()])

    sums = points.sum().to_numpy(), points.size().to_numpy()
    assert totals[1]["interval"] == pytest.approx(scipys(sums, of_points), abs=1e-9)
    assert totals[2]["interval"] == pytest.approx(scipys((*sums, groups), of_categories), abs=1e-9)


def test_the_interval_by_images_is_the_dyadic_robust_one(table: pd.DataFrame) -> None:
    """Written out: the sum over all pairs of pairs that share an image, for each average."""
    totals = score(table, (0.1,))["totals"]
    pairs = table[table.n_pts > 0].drop_duplicates("pair")
    ends = [{source, target} for source, target in zip(pairs.source, pairs.target, strict=True)]
    shared = np.array([[bool(p & q) for q in ends] for p in ends])
    P = len(pairs)
    for k, (what, values) in enumerate(measure(table, (0.1,))[:3]):
        values = values[values.index.isin(pairs.pair)]
        sums, counts = (values.groupby(level=0).agg(how).to_numpy() for how in ("sum", "count"))
        category = pairs.category.to_numpy() if what["average"] == "categories" else np.zeros(P)
        e, means = np.zeros(P), []
        for name in np.unique(category):
            chosen = category == name
            means.append(sums[chosen].sum() / counts[chosen].sum())
            e[chosen] = (sums[chosen] - means[-1] * counts[chosen]) * P / counts[chosen].sum()
        e /= len(means)
        error = np.sqrt(max(e @ shared @ e, e @ e)) / P
        expected = [np.mean(means) - 1.96 * error, np.mean(means) + 1.96 * error]
        assert totals[k]["interval_by_image"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [  # statsmodels.stats.contingency_tables.mcnemar(exact=True)
        (0, 0, 1.0),
        (0, 1, 1.0),
        (5, 12, 0.143463134765625),
        (30, 31, 1.0),
        (120, 80, 0.005685155996750306),
        (2000, 1700, 8.738822275817724e-07),
        (900, 1400, 1.5282546629842897e-25),
    ],
)
def test_mcnemars_test_is_statsmodels(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=1e-9, abs=1e-300)
