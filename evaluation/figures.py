"""Scoring: the means of a metric's values over all pairs, and over groups of pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dhpf.data import BENCHMARKS
from dhpf.data.published_lists import compare_with_published
from dhpf.evaluation import METRICS
from dhpf.evaluation.error_breakdown import error_breakdown
from dhpf.evaluation.intervals import WORDS, add_intervals
from dhpf.evaluation.metrics import Figure, Measure
from dhpf.evaluation.predictions import NAME, SELECTION

MANY = 8  # categories, more are not named
LEAKED = "leaked"  # the label of pairs that are training pairs


def measure(table: pd.DataFrame, alphas: Sequence[float], thres: str = "auto") -> list[Measure]:
    """What the benchmark's metric measures of a table; each definition says whether it is the paper's, which it is
    on none but the published test pairs.

    Args: thres: `auto` (the benchmark's own), `img`, `bbox` or `bbox-kp`.
    Raises: UserError: an unknown benchmark; one that cannot give the threshold.
    """
    benchmark = BENCHMARKS[table.benchmark.iloc[0]]
    measured = METRICS[benchmark.metric](table, benchmark, alphas, thres)
    possible = bool(benchmark.paper) and table.split.iloc[0] == "test" and published(table)[0]
    return [
        (what | {"paper": possible and all(what.get(k) == v for k, v in benchmark.paper.items())}, values)
        for what, values in measured
    ]


def published(table: pd.DataFrame) -> tuple[bool, str]:
    """Whether a table has the benchmark's published pairs, and that in words (`compare_with_published`)."""
    about = table.iloc[0]
    pairs = table.drop_duplicates("pair")[["category", "source", "target"]].itertuples(index=False)
    return compare_with_published(BENCHMARKS[about.benchmark].published, about.split, pairs)


def averages(table: pd.DataFrame, measures: Sequence[Measure]) -> Callable[[pd.Series], list[Figure]]:
    """A function that averages over some of the pairs, given as booleans indexed by pair.

    A figure has its definition, value (None: undefined), n_pairs, n_points and n_categories.
    """
    pairs = table.drop_duplicates("pair").set_index("pair")
    n_pts, category = pairs.n_pts.to_numpy(), pd.factorize(pairs.category)[0]
    placed = [(what, values.to_numpy(), pairs.index.get_indexer(values.index)) for what, values in measures]

    def figures(chosen: pd.Series) -> list[Figure]:
        found = []
        for what, values, pair in placed:
            kept = chosen.to_numpy()[pair] & ~np.isnan(values)
            used, mine = np.unique(pair[kept]), category[pair[kept]]
            counts = np.bincount(mine)
            present = counts > 0
            value: float | None = None
            if len(used) and what["average"] == "categories":
                value = float((np.bincount(mine, values[kept])[present] / counts[present]).mean())
            elif len(used):
                value = float(values[kept].mean())
            sizes = {
                "n_pairs": len(used),
                "n_points": int(n_pts[used].sum()),
                "n_categories": int(present.sum()),
            }
            found.append({**what, "value": value, **sizes})
        return found

    return figures


def main_figures(figures: Sequence[Mapping[str, Any]], average: str = "") -> list[int]:
    """Which of the figures stand for the run: those averaged and framed as the first; of PCK, at the alpha nearest 0.1.

    Args: average: another average than the first figure's.
    """
    alphas = [f["alpha"] for f in figures if "alpha" in f]
    alpha = min(alphas, key=lambda alpha: abs(alpha - 0.1), default=None)
    first = figures[0]
    chosen = {"average": average or first["average"], "frame": first["frame"], "alpha": alpha}
    chosen["corners"] = first.get("corners")
    return [i for i, f in enumerate(figures) if all(f.get(k) == v for k, v in chosen.items())]


def score(table: pd.DataFrame, alphas: Sequence[float], thres: str = "auto") -> dict[str, Any]:
    """Every figure of a table, each with its definition.

    Returns: what the figures are about, also in sentences ('about'); 'totals', 'without_leaked' (where the benchmark
    knows training pairs), 'categories' and 'difficulty' (by the benchmark's labels), each ending in a list of figures:
    the definition that `measure` gives with what `averages` and `add_intervals` add; 'points', the share of each point
    that has a name, or a number and a category; of PCK 'kinds' and 'errors' (`evaluation.errors.hidden`);
    'layer_selection', the selection rate of each layer.
    Args and errors: as for `measure`.
    """
    pairs = table.drop_duplicates("pair").set_index("pair")
    about = pairs.iloc[0]
    measures = measure(table, alphas, thres)
    average = averages(table, measures)
    averaged: list[tuple[pd.Series, list[Figure]]] = []

    def figures(chosen: pd.Series) -> list[Figure]:
        averaged.append((chosen, average(chosen)))
        return averaged[-1][1]

    lines = [*sentences(table), *without_threshold(pairs, measures)]
    result: dict[str, Any] = {
        "benchmark": about.benchmark, "split": about.split, "img_side": int(about.img_side),
        "about": lines, "n_pairs": len(pairs), "n_pairs_without_keypoints": int((pairs.n_pts == 0).sum()),
        "n_points_without_prediction": unpredicted(table),
        "totals": figures(pairs.n_pts >= 0), "intervals": WORDS,
    }  # fmt: skip
    benchmark = BENCHMARKS[about.benchmark]
    labels = {k: v for k, v in benchmark.labels.items() if k in pairs and (pairs[k] >= 0).any()}
    if LEAKED in labels and about.split != "trn":
        result["without_leaked"] = figures(pairs[LEAKED] == 0)
        for figure in result["without_leaked"]:
            figure |= {"basis": f"{figure['basis']}, without those that {benchmark.overlap}", "paper": False}
    categories = {name: pairs.category == name for name in sorted(pairs.category.unique())}
    result["categories"] = {name: figures(chosen) for name, chosen in categories.items()}
    for label, names in labels.items():
        if label != LEAKED:
            grade = pairs[label].map(dict(enumerate(names))).fillna("unknown")
            groups = {name: figures(grade == name) for name in (*names, "unknown") if (grade == name).any()}
            result.setdefault("difficulty", {})[label] = groups
    add_intervals(table, measures, averaged)
    if benchmark.metric == "pck" and (pairs.n_pts > 0).any():
        alpha = result["totals"][main_figures(result["totals"])[0]]["alpha"]
        result |= error_breakdown(table, benchmark, alpha, thres)
    if points := by_point(table, measures):
        result["points"] = points
    if (pairs[SELECTION] != "").all():
        selected = pd.DataFrame([line.split() for line in pairs[SELECTION]], pairs.index).astype("float64")
        result["layer_selection"] = {
            "definition": "mean over pairs of the selection of each hyperpixel layer, first layer first",
            "total": selected.mean().tolist(),
            "categories": {name: selected[chosen].mean().tolist() for name, chosen in categories.items()},
        }
    return result


def sentences(table: pd.DataFrame) -> list[str]:
    """What a table's figures are about: pairs, categories; whether the pairs are the published ones, or trained on."""
    pairs = table.drop_duplicates("pair")
    about, benchmark = pairs.iloc[0], BENCHMARKS[pairs.benchmark.iloc[0]]
    categories = list(pairs.category.unique())
    head = f"{about.benchmark} {about.split}"
    if len(categories) < min(MANY, len(benchmark.categories)):
        head += f", categories {', '.join(categories)}"
    elif len(categories) < len(benchmark.categories):
        head += f", {len(categories)} of {len(benchmark.categories)} categories"
    head += f": {len(pairs)} pairs"
    if without := int((pairs.n_pts == 0).sum()):
        head += f", of which {without} without key-points are in no figure"
    lines = [head]
    if words := published(table)[1]:
        lines.append(f"list: {words}")
    if about.split == "trn":
        lines.append("leak: training split")
    elif LEAKED in pairs:
        unknown = (pairs[LEAKED] < 0).all()
        many = f"{(pairs[LEAKED] > 0).sum()} of {len(pairs)} pairs {benchmark.overlap}"
        lines.append(f"leak: {f'unknown, {benchmark.overlap_unknown}' if unknown else many}")
    if missing := unpredicted(table):
        lines.append(f"predictions: {missing} of {pairs.n_pts.sum()} key-points have none and count as wrong")
    return lines


def without_threshold(pairs: pd.DataFrame, measures: Sequence[Measure]) -> list[str]:
    """A sentence about pairs that have key-points but no PCK, as their threshold is zero."""
    undefined = [values.index[values.isna()] for what, values in measures if "thres" in what]
    if not undefined or not len(undefined[0]):
        return []
    left = pairs.loc[undefined[0].unique()]
    named = ", ".join(f"{pair.source} - {pair.target}" for pair in left.head(MANY).itertuples())
    more = ", ..." if len(left) > MANY else ""
    return [f"threshold: zero in {len(left)} pairs, which are in no PCK: {named}{more}"]


def unpredicted(table: pd.DataFrame) -> int:
    """The number of key-points without a prediction."""
    asked = (table.point >= 0) & (table.point < table.n_pts)
    return int((asked & table[["predicted_x", "predicted_y"]].isna().any(axis=1)).sum())


def by_point(table: pd.DataFrame, measures: Sequence[Measure]) -> dict[str, Any]:
    """The share of each point that has a name; a number alone is another point in each category."""
    rows = table[table.n_pts > 0]
    numbered = rows[NAME].str.isdecimal()
    labels = rows[NAME].where(~numbered, rows.category + " " + rows[NAME])[rows[NAME] != ""]
    frame = measures[0][0]["frame"]
    values = pd.DataFrame({
        what["name"]: share.set_axis(rows.index)
        for what, share in measures
        if what["average"] == "key-points" and what["frame"] == frame
    })  # fmt: skip
    if labels.empty or values.empty:
        return {}
    groups = values.loc[labels.index].groupby(labels)
    table = groups.mean().assign(n_points=groups.size())
    order = sorted(table.index, key=lambda label: (label.rstrip("0123456789"), len(label), label))
    return {
        "definition": f"share of all predictions of a point, in %, {frame}",
        "values": table.loc[order].to_dict("index"),
    }
