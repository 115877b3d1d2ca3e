"""What a share of correct key-points hides: how far off predictions are, and of which kind they are."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.metrics import keypoint_errors, limits, with_points

KINDS = {  # in the order in which they are asked for
    "correct": "within α of the threshold",
    "swap": "within α of another annotated key-point of the target, such as left for right",
    "jitter": "within 2 α",
    "miss": "farther off",
    "none": "no prediction",
}
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def kinds_and_distances(
    table: pd.DataFrame, benchmark: type[Benchmark], alpha: float, thres: str
) -> tuple[pd.Series, pd.DataFrame]:
    """The kind of each key-point's prediction, and its distance from the annotated place in pixels of the frame and in
    thresholds, both indexed by pair. A distance is infinite where there is no prediction, and NaN in thresholds of
    zero, within which nothing is.

    Raises: UserError: the threshold cannot be had.
    """
    _, _, extent = limits(table, benchmark, thres)
    rows = with_points(table)
    limit = torch.from_numpy(extent.max(1))
    target, found = (torch.from_numpy(rows[[f"{e}_x", f"{e}_y"]].to_numpy()) for e in ("target", "predicted"))
    one = torch.ones(len(rows))

    def within(other: torch.Tensor, share: float) -> tuple[np.ndarray, np.ndarray]:
        correct, distance = keypoint_errors(found[:, :, None], other[:, :, None], one, limit, share)
        return correct[:, 0].numpy(), distance[:, 0].numpy()

    correct, distance = within(target, alpha)
    n, position = rows.n_pts.to_numpy(), rows.point.to_numpy()
    start = np.arange(len(rows)) - position
    swapped = np.zeros(len(rows), dtype=bool)
    for step in range(1, int(n.max(initial=1))):  # against the pair's other points, one after another
        other = start + (position + step) % n
        swapped |= within(target[torch.from_numpy(other)], alpha)[0] & (step < n)
    chosen = [correct, swapped, within(target, 2 * alpha)[0], np.isfinite(distance)]
    kinds = np.select(chosen, list(KINDS)[:4], "none")
    threshold = limit.numpy()
    shares = np.divide(distance, threshold, out=np.full_like(distance, np.nan), where=threshold > 0)
    return pd.Series(kinds, rows.index), pd.DataFrame({"pixels": distance, "thresholds": shares}, rows.index)


def error_breakdown(
    table: pd.DataFrame, benchmark: type[Benchmark], alpha: float, thres: str
) -> dict[str, Any]:
    """Shares of the kinds, of all and by category, and quantiles of the distances of what is predicted."""
    kinds, distances = kinds_and_distances(table, benchmark, alpha, thres)
    measured = distances.thresholds.notna().to_numpy()
    kinds, distances = kinds[measured], distances[measured]
    category = with_points(table).category[measured]
    known = distances[np.isfinite(distances).all(axis=1)]

    def shares(of: pd.Series) -> dict[str, float]:
        return {kind: float((of == kind).sum() / max(len(of), 1) * 100) for kind in KINDS}

    return {
        "kinds": {
            "alpha": alpha,
            "definition": "share of key-points in %, of the first kind that fits: "
            + "; ".join(f"{kind}: {words}" for kind, words in KINDS.items()),
            "total": shares(kinds),
            "categories": {name: shares(kinds[category == name]) for name in sorted(category.unique())},
        },
        "errors": {
            "definition": "distance within which this share of the predictions is, in pixels of the frame and in "
            "thresholds",
            "n_points": len(known),
            **{
                unit: {f"{q:g}": float(known[unit].quantile(q)) for q in QUANTILES if len(known)}
                for unit in ("pixels", "thresholds")
            },
        },
    }
