"""The figures of a table of predictions: averages of a metric's values over all pairs, and over groups of pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dhpf.common.errors import count_text
from dhpf.data import BENCHMARKS
from dhpf.data.published_lists import compare_with_published
from dhpf.evaluation import METRICS, NEEDS
from dhpf.evaluation.error_breakdown import error_breakdown
from dhpf.evaluation.intervals import DESCRIPTION, add_intervals
from dhpf.evaluation.metrics import Figure, Measure
from dhpf.evaluation.predictions import NAME, layer_selection, pair_columns

MAX_NAMES = 8  # in a sentence
LEAKED = "leaked"  # the label of pairs that are training pairs


def measure(
    table: pd.DataFrame, alphas: Sequence[float], thres: str = "auto", others: Sequence[str] = ()
) -> list[Measure]:
    """What the benchmark's metric measures of a table, then what others do, whose definitions name them (`measure`).

    Each definition says under `paper` whether it is the paper's, which it is on none but the published test pairs.
    Args: thres: `auto` (the benchmark's own), `img`, `bbox` or `bbox-kp`; others: keys of `METRICS`.
    Raises: UserError: an unknown benchmark; one that cannot give the threshold.
    """
    benchmark = BENCHMARKS[table.benchmark.iloc[0]]
    measures = METRICS[benchmark.metric](table, benchmark, alphas, thres)
    possible = bool(benchmark.paper) and table.split.iloc[0] == "test" and published_list(table)[0]
    for definition, _ in measures:
        definition["paper"] = possible and all(definition.get(k) == v for k, v in benchmark.paper.items())
    for name in others if benchmark.metric != "outlines" else ():
        found = METRICS[name](table, benchmark, alphas, thres)
        measures += [
            ({**definition, "measure": name, "paper": False}, values) for definition, values in found
        ]
    return measures


def published_list(table: pd.DataFrame) -> tuple[bool, str]:
    """Whether a table has the benchmark's published pairs, and a sentence about it (see `compare_with_published`)."""
    first = table.iloc[0]
    pairs = pair_columns(table)[["category", "source", "target"]].itertuples(index=False)
    return compare_with_published(BENCHMARKS[first.benchmark].published, first.split, pairs)


def averages(
    table: pd.DataFrame, measures: Sequence[Measure], groups: Sequence[pd.Series]
) -> list[list[Figure]]:
    """For each group of pairs, given as booleans indexed by pair, the figures of all measures.

    A figure is a definition with value (None: undefined), n_pairs, n_points and n_categories.
    """
    pairs = pair_columns(table)[["category", "n_pts"]]
    pairs["category"] = pd.Categorical(pairs.category, pairs.category.unique())  # keeps their order
    figures: list[list[Figure]] = [[] for _ in groups]
    for definition, values in measures:
        measured = pairs.join(values.dropna().rename("value"), how="inner")
        for group, of_group in zip(groups, figures, strict=True):
            rows = measured[group.loc[measured.index].to_numpy()]
            used = rows[~rows.index.duplicated()]
            by_category = rows.groupby("category", observed=True).value.mean()
            mean = by_category.mean() if definition["average"] == "categories" else rows.value.mean()
            sizes = {
                "n_pairs": len(used),
                "n_points": int(used.n_pts.sum()),
                "n_categories": len(by_category),
            }
            of_group.append({**definition, "value": float(mean) if len(rows) else None, **sizes})
    return figures


def main_figures(figures: Sequence[Mapping[str, Any]], average: str = "") -> list[int]:
    """Which of the figures stand for the run: those averaged and framed as the first; of PCK, at the alpha nearest 0.1.

    Args: average: another average than the first figure's.
    """
    alphas = [f["alpha"] for f in figures if "alpha" in f]
    first = figures[0]
    wanted = {
        "average": average or first["average"], "frame": first["frame"], "corners": first.get("corners"),
        "measure": first.get("measure"),
        "alpha": min(alphas, key=lambda alpha: abs(alpha - 0.1), default=None),
    }  # fmt: skip
    return [i for i, f in enumerate(figures) if all(f.get(k) == v for k, v in wanted.items())]


def pair_groups(pairs: pd.DataFrame) -> dict[str, dict[str, pd.Series]]:
    """The categories, and the grades of every label that is known: for each which pairs are in it.

    Args: pairs: see `pair_columns`.
    """
    groups = {"category": {name: pairs.category == name for name in sorted(pairs.category.unique())}}
    for label, grades in BENCHMARKS[pairs.benchmark.iloc[0]].labels.items():
        if label != LEAKED and label in pairs and (pairs[label] >= 0).any():
            grade = pairs[label].map(dict(enumerate(grades))).fillna("unknown")
            groups[label] = {name: grade == name for name in (*grades, "unknown") if (grade == name).any()}
    return groups


def score(
    table: pd.DataFrame, alphas: Sequence[float], thres: str = "auto", others: Sequence[str] = ()
) -> dict[str, Any]:
    """Every figure of a table, each with its definition.

    Returns: what the figures are of, also in sentences ('about'); 'totals', 'without_leaked' (where the benchmark
    knows training pairs), 'categories' and 'difficulty' (by the benchmark's labels), each ending in a list of figures:
    the definition that `measure` gives with what `averages` and `add_intervals` add; 'points' (`point_figures`); of PCK
    'kinds' and 'errors' (`error_breakdown`); 'layer_selection', the selection rate of each layer.
    Args and errors: as for `measure`.
    """
    pairs = pair_columns(table)
    first, benchmark = pairs.iloc[0], BENCHMARKS[pairs.benchmark.iloc[0]]
    measures = measure(table, alphas, thres, others)
    result: dict[str, Any] = {
        "benchmark": first.benchmark, "split": first.split, "img_side": int(first.img_side),
        "about": [
            *pair_notes(table), *threshold_notes(pairs, measures), *unknown_measures(measures, others)
        ],
        "n_pairs": len(pairs), "n_pairs_without_keypoints": int((pairs.n_pts == 0).sum()),
        "n_points_without_prediction": unpredicted(table),
    }  # fmt: skip
    result |= group_figures(table, measures)
    if benchmark.metric == "pck" and (pairs.n_pts > 0).any():
        alpha = result["totals"][main_figures(result["totals"])[0]]["alpha"]
        result |= error_breakdown(table, benchmark, alpha, thres)
    if points := point_figures(table, measures):
        result["points"] = points
    if (selection := layer_selection(pairs)) is not None:
        categories = pair_groups(pairs)["category"]
        result["layer_selection"] = {
            "definition": "share of pairs that select each hyperpixel layer",
            "total": selection.mean().tolist(),
            "categories": {name: selection[chosen].mean().tolist() for name, chosen in categories.items()},
        }
    return result


def group_figures(table: pd.DataFrame, measures: Sequence[Measure]) -> dict[str, Any]:
    """The figures of all pairs and of every group, with intervals, under the keys of `score`."""
    pairs = pair_columns(table)
    benchmark = BENCHMARKS[pairs.benchmark.iloc[0]]
    groups = {("totals", ""): pairs.n_pts >= 0}
    if LEAKED in pairs and (pairs[LEAKED] >= 0).any() and pairs.split.iloc[0] != "trn":
        groups["without_leaked", ""] = pairs[LEAKED] == 0
    for label, by_name in pair_groups(pairs).items():
        groups |= {(label, name): chosen for name, chosen in by_name.items()}
    chosen = list(groups.values())
    figures = averages(table, measures, chosen)
    add_intervals(table, measures, list(zip(chosen, figures, strict=True)))
    result: dict[str, Any] = {"totals": figures[0], "intervals": DESCRIPTION}
    for (label, name), of_group in list(zip(groups, figures, strict=True))[1:]:
        if label == "without_leaked":
            for figure in of_group:
                figure |= {
                    "basis": f"{figure['basis']}, without those that {benchmark.overlap}",
                    "paper": False,
                }
            result[label] = of_group
        elif label == "category":
            result.setdefault("categories", {})[name] = of_group
        else:
            result.setdefault("difficulty", {}).setdefault(label, {})[name] = of_group
    return result


def pair_notes(table: pd.DataFrame) -> list[str]:
    """What a table's figures are of: pairs, categories; whether the pairs are the published ones, or trained on."""
    pairs = pair_columns(table)
    first, benchmark = pairs.iloc[0], BENCHMARKS[pairs.benchmark.iloc[0]]
    categories = list(pairs.category.unique())
    head = f"{first.benchmark} {first.split}"
    if len(categories) < min(MAX_NAMES, len(benchmark.categories)):
        head += f", categories {', '.join(categories)}"
    elif len(categories) < len(benchmark.categories):
        head += f", {len(categories)} of {len(benchmark.categories)} categories"
    head += f": {count_text(len(pairs), 'pair')}"
    if without := int((pairs.n_pts == 0).sum()):
        head += f", of which {without} without key-points are not measured"
    notes = [head]
    if published := published_list(table)[1]:
        notes.append(f"list: {published}")
    if first.split == "trn":
        notes.append("train/test overlap: this is the training split")
    elif LEAKED in pairs and (pairs[LEAKED] < 0).all():
        notes.append(f"train/test overlap: unknown, {benchmark.overlap_unknown}")
    elif LEAKED in pairs:
        notes.append(
            f"train/test overlap: {(pairs[LEAKED] > 0).sum()} of {count_text(len(pairs), 'pair')} {benchmark.overlap}"
        )
    if missing := unpredicted(table):
        notes.append(
            f"predictions: {missing} of {pairs.n_pts.sum()} key-points have no prediction and count as wrong"
        )
    return notes


def threshold_notes(pairs: pd.DataFrame, measures: Sequence[Measure]) -> list[str]:
    """A sentence about pairs that have key-points but no PCK, as their threshold is zero."""
    undefined = next((v.index[v.isna()] for definition, v in measures if "thres" in definition), None)
    if undefined is None or not len(undefined):
        return []
    left = pairs.loc[undefined.unique()]
    names = ", ".join(f"{pair.source} - {pair.target}" for pair in left.head(MAX_NAMES).itertuples())
    more = ", ..." if len(left) > MAX_NAMES else ""
    return [f"threshold: zero in {count_text(len(left), 'pair')}, without PCK: {names}{more}"]


def unknown_measures(measures: Sequence[Measure], others: Sequence[str]) -> list[str]:
    """Sentences about the other measures that a table does not have what is needed for."""
    known = {definition.get("measure") for definition, values in measures if values.notna().any()}
    return [f"{name}: unknown, it needs {NEEDS.get(name, 'more')}" for name in others if name not in known]


def unpredicted(table: pd.DataFrame) -> int:
    """The number of key-points without a prediction."""
    asked = (table.point >= 0) & (table.point < table.n_pts)
    return int((asked & table[["predicted_x", "predicted_y"]].isna().any(axis=1)).sum())


def point_figures(table: pd.DataFrame, measures: Sequence[Measure]) -> dict[str, Any]:
    """The share of each point that has a name; a number alone is another point in each category."""
    rows = table[table.n_pts > 0]
    numbered = rows[NAME].str.isdecimal()
    labels = rows[NAME].where(~numbered, rows.category + " " + rows[NAME])[rows[NAME] != ""]
    frame = measures[0][0]["frame"]
    values = pd.DataFrame({
        definition["name"]: share.set_axis(rows.index)
        for definition, share in measures
        if definition["average"] == "key-points" and definition["frame"] == frame and "measure" not in definition
    }, rows.index)  # fmt: skip
    values = values.loc[labels.index].dropna()  # without those whose threshold is zero
    if values.empty:
        return {}
    groups = values.groupby(labels)
    points = groups.mean().assign(n_points=groups.size())
    order = sorted(points.index, key=lambda label: (label.rstrip("0123456789"), len(label), label))
    return {
        "definition": f"share of all predictions of a point, in %, {frame}",
        "values": points.loc[order].to_dict("index"),
    }
