"""Scoring: the means of a metric's values over all pairs, and over groups of pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dhpf.data import BENCHMARKS
from dhpf.evaluation import METRICS
from dhpf.evaluation.metrics import Figure, Measure
from dhpf.evaluation.table import SELECTION

LEAKED = "leaked"  # the label of pairs that are training pairs


def measure(table: pd.DataFrame, alphas: Sequence[float], thres: str = "auto") -> list[Measure]:
    """What the benchmark's metric measures of a table; each definition says whether it is the paper's.

    Args: thres: `auto` (the benchmark's own), `img`, `bbox` or `bbox-kp`.
    Raises: UserError: an unknown benchmark; one that cannot give the threshold.
    """
    benchmark = BENCHMARKS[table.benchmark.iloc[0]]
    measured = METRICS[benchmark.metric](table, benchmark, alphas, thres)
    paper = benchmark.paper.items()
    return [
        (what | {"paper": bool(paper) and all(what.get(k) == v for k, v in paper)}, values)
        for what, values in measured
    ]


def score(table: pd.DataFrame, alphas: Sequence[float], thres: str = "auto") -> dict[str, Any]:
    """Every figure of a table, each with its definition.

    Returns: what the figures are about; 'totals', 'without_leaked' (where the benchmark knows training pairs),
    'categories' and 'difficulty' (by the benchmark's labels), each ending in a list of figures: the definition that
    `measure` gives, with value (None: undefined), n_pairs and n_points; 'layer_selection', the selection rate of each
    layer.
    Args and errors: as for `measure`.
    """
    pairs = table.drop_duplicates("pair").set_index("pair")
    about = pairs.iloc[0]
    n_pts = pairs.n_pts.to_numpy()
    measures = [
        (what, values.to_numpy(), pairs.index.get_indexer(values.index))
        for what, values in measure(table, alphas, thres)
    ]

    def figures(chosen: pd.Series) -> list[Figure]:
        found = []
        for what, values, pair in measures:
            kept = chosen.to_numpy()[pair] & ~np.isnan(values)
            used = np.unique(pair[kept])
            value = float(values[kept].mean()) if len(used) else None
            found.append({**what, "value": value, "n_pairs": len(used), "n_points": int(n_pts[used].sum())})
        return found

    result: dict[str, Any] = {
        "benchmark": about.benchmark, "split": about.split, "img_side": int(about.img_side),
        "n_pairs": len(pairs), "n_pairs_without_keypoints": int((pairs.n_pts == 0).sum()),
        "totals": figures(pairs.n_pts >= 0),
    }  # fmt: skip
    benchmark = BENCHMARKS[about.benchmark]
    labels = {k: v for k, v in benchmark.labels.items() if k in pairs and (pairs[k] >= 0).any()}
    if LEAKED in labels:
        result["without_leaked"] = [
            figure | {"basis": f"{figure['basis']}, without {benchmark.leaked_words}", "paper": False}
            for figure in figures(pairs[LEAKED] == 0)
        ]
    categories = {name: pairs.category == name for name in sorted(pairs.category.unique())}
    result["categories"] = {name: figures(chosen) for name, chosen in categories.items()}
    for label, names in labels.items():
        if label != LEAKED:
            grade = pairs[label].map(dict(enumerate(names))).fillna("unknown")
            groups = {name: figures(grade == name) for name in (*names, "unknown") if (grade == name).any()}
            result.setdefault("difficulty", {})[label] = groups
    if (pairs[SELECTION] != "").all():
        selected = pd.DataFrame([line.split() for line in pairs[SELECTION]], pairs.index).astype("float64")
        result["layer_selection"] = {
            "definition": "mean over pairs of the selection of each hyperpixel layer, first layer first",
            "total": selected.mean().tolist(),
            "categories": {name: selected[chosen].mean().tolist() for name, chosen in categories.items()},
        }
    return result
