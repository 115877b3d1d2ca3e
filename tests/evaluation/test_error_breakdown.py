"""Kinds of predictions and how far off they are, against a loop over each point in the order of the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dhpf.data.spair import SPair
from dhpf.evaluation.error_breakdown import kinds_and_distances
from tests.helpers.tables import make_pair, table_of, whole_points


def kind(found: tuple[int, int] | None, target: tuple[int, int], others: list, limit: float) -> str:
    if found is None:
        return "none"
    far = [np.hypot(found[0] - x, found[1] - y) for x, y in [target, *others]]
    if far[0] <= limit:
        return "correct"
    if min(far[1:], default=np.inf) <= limit:
        return "swap"
    return "jitter" if far[0] <= 2 * limit else "miss"


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.integers(0, 5).flatmap(
            lambda n: st.tuples(
                st.lists(whole_points, min_size=n, max_size=n),
                st.lists(st.none() | whole_points, min_size=n, max_size=n),
            )
        ),
        min_size=1,
        max_size=4,
    )
)
def test_kinds_agree_with_a_loop(pairs: list) -> None:
    table = table_of([make_pair(i, target, target, found) for i, (target, found) in enumerate(pairs)])
    kinds, distances = kinds_and_distances(table, SPair, 0.25, "img")
    expected, far = [], []
    for target, found in pairs:
        for k, (xy, place) in enumerate(zip(target, found, strict=True)):
            expected.append(kind(place, xy, target[:k] + target[k + 1 :], 5))  # of a frame of 20
            far.append(np.inf if place is None else np.hypot(place[0] - xy[0], place[1] - xy[1]))
    assert kinds.tolist() == expected
    assert distances.pixels.to_numpy() == pytest.approx(np.array(far, dtype=float), rel=1e-6)
    assert distances.thresholds.to_numpy() == pytest.approx(np.array(far, dtype=float) / 20, rel=1e-6)
