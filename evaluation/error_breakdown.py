"""What a share of correct key-points does not say: how far off predictions are, and of which kind they are."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.metrics import keypoint_errors, threshold_extents, with_points

KINDS = {  # a prediction is of the first kind that fits
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
    """The kind of each key-point's prediction, and its distance from the annotated point in pixels of the frame and in
    thresholds, both indexed by pair.

    A distance is infinite where there is no prediction, and NaN in thresholds of zero, within which nothing is.
    Raises: UserError: the benchmark cannot give the threshold.
    """
    rows = with_points(table)
    threshold = threshold_extents(table, benchmark, thres)[2].max(1)
    predicted, target = (
        torch.from_numpy(rows[[f"{end}_x", f"{end}_y"]].to_numpy())[:, :, None]
        for end in ("predicted", "target")
    )

    def errors(points: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Whether each prediction is within a share of the threshold of the target point of a row, and the distance."""
        one, limit = torch.ones(len(rows)), torch.from_numpy(threshold)
        correct, distance = keypoint_errors(predicted, target[torch.from_numpy(points)], one, limit, share)
        return correct[:, 0].numpy(), distance[:, 0].numpy()

    own, n, point = np.arange(len(rows)), rows.n_pts.to_numpy(), rows.point.to_numpy()
    correct, distance = errors(own, alpha)
    swapped = np.zeros(len(rows), dtype=bool)
    for step in range(1, int(n.max(initial=1))):  # against the pair's other points, one after another
        swapped |= errors(own - point + (point + step) % n, alpha)[0] & (step < n)
    fits = [correct, swapped, errors(own, 2 * alpha)[0], np.isfinite(distance)]
    kinds = np.select(fits, list(KINDS)[:4], "none")
    thresholds = np.divide(distance, threshold, out=np.full_like(distance, np.nan), where=threshold > 0)
    distances = pd.DataFrame({"pixels": distance, "thresholds": thresholds}, rows.index)
    return pd.Series(kinds, rows.index), distances


def error_breakdown(
    table: pd.DataFrame, benchmark: type[Benchmark], alpha: float, thres: str
) -> dict[str, Any]:
    """Shares of the kinds, of all and by category, and quantiles of the distances of what is predicted."""
    kinds, distances = kinds_and_distances(table, benchmark, alpha, thres)
    defined = distances.thresholds.notna().to_numpy()
    kinds, distances = kinds[defined], distances[defined]
    category = with_points(table).category[defined]
    predicted = distances[np.isfinite(distances).all(axis=1)]

    def shares(kinds: pd.Series) -> dict[str, float]:
        return {kind: float((kinds == kind).sum() / max(len(kinds), 1) * 100) for kind in KINDS}

    meanings = "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())
    return {
        "kinds": {
            "alpha": alpha,
            "definition": f"share of key-points in %, of the first kind that fits: {meanings}",
            "total": shares(kinds),
            "categories": {name: shares(kinds[category == name]) for name in sorted(category.unique())},
        },
        "errors": {
            "definition": "distance within which this share of the predictions is, in pixels of the frame and in "
            "thresholds",
            "n_points": len(predicted),
            **{
                unit: {f"{q:g}": float(predicted[unit].quantile(q)) for q in QUANTILES if len(predicted)}
                for unit in ("pixels", "thresholds")
            },
        },
    }
