"""Runs beside each other: on the pairs that all of them have, their figures, and their differences with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dhpf.common.errors import UserError
from dhpf.data import BENCHMARKS
from dhpf.evaluation.figures import LEAKED, main_figures, measure, sentences
from dhpf.evaluation.intervals import Means, Reals, bounds, by_images, by_pairs, mcnemar, resampled
from dhpf.evaluation.metrics import Measure
from dhpf.evaluation.predictions import SELECTION

SAME = ("benchmark", "img_side", "auto_thres")
KEY = ["category", "source", "target"]
NUMBERS = ["source_x", "source_y", "target_x", "target_y", "bbox_width", "bbox_height"]
CLOSE = 1e-3  # pixels of the frame
MOST = 5  # pairs that changed most, either way


def aligned(tables: Mapping[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], str]:
    """The rows of the pairs that all tables have, in the first one's order and under its numbers, and in words which.

    Raises: UserError: other benchmarks, frames or thresholds; no common pair; one of other points.
    """
    (first, table), *others = tables.items()
    for name, other in others:
        for column in SAME:
            a, b = table[column].iloc[0], other[column].iloc[0]
            if a != b:
                raise UserError(
                    f"{name}: its {column} is {b}, that of {first} is {a}: such figures do not compare"
                )
    keyed = {}
    for name, each in tables.items():
        pairs = each.drop_duplicates("pair")[["pair", *KEY]]
        # Own data may have a pair of images more than once.
        keyed[name] = pairs.assign(again=pairs.groupby(KEY).cumcount()).set_index([*KEY, "again"]).pair
    common = keyed[first].index
    for pairs in keyed.values():
        common = common[common.isin(pairs.index)]
    if common.empty:
        raise UserError(f"{', '.join(tables)}: there is no pair that all of them have")
    reduced = {}
    for name, each in tables.items():
        numbers = pd.Series(keyed[first][common].to_numpy(), keyed[name][common].to_numpy())
        rows = each.assign(pair=each.pair.map(numbers))
        rows = rows[rows.pair.notna()].astype({"pair": "int64"})
        reduced[name] = rows.sort_values(["pair", "point"], kind="stable").reset_index(drop=True)
    for name, rows in reduced.items():
        same = len(rows) == len(reduced[first]) and np.allclose(
            rows[NUMBERS], reduced[first][NUMBERS], rtol=0, atol=CLOSE, equal_nan=True
        )
        if not same:
            raise UserError(
                f"{name}: a pair has other key-points or another box than in {first}: compare one list"
            )
    sizes = {name: len(pairs) for name, pairs in keyed.items()}
    if set(sizes.values()) == {len(common)}:
        return reduced, f"all on the same {len(common)} pairs"
    counts = ", ".join(f"{name} of {size}" for name, size in sizes.items())
    return reduced, f"reduced to the {len(common)} pairs that all have: {counts}"


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    pairs: which are compared, in words; about: what it is about, in sentences.  runs: their names; the others are
    compared with the first.
    figures: for each figure and run its value and intervals, the difference from the first run with its intervals, and
    by McNemar's test how many key-points only one of the two predicts correctly.
    groups: by category and by difficulty the headline's values, and differences with intervals.
    changed: for each other run the pairs that changed most.  layers: selection rates by run.
    tables: the rows that were compared.  headline: the definition of the figure that stands for a run.
    """

    pairs: str
    about: list[str]
    runs: list[str]
    figures: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    changed: dict[str, list[dict[str, Any]]]
    layers: dict[str, list[float]]
    tables: dict[str, pd.DataFrame]
    headline: dict[str, Any]
    correct: dict[str, pd.Series]


def compare(tables: Mapping[str, pd.DataFrame], alphas: Sequence[float], thres: str) -> Comparison:
    """Two or more tables of predictions beside each other, in the frame that their headline is measured in.

    Raises: UserError: they do not compare (see `aligned`).
    """
    reduced, words = aligned(tables)
    first, *others = runs = list(reduced)
    measured = {name: of_frame(measure(table, alphas, thres)) for name, table in reduced.items()}
    definitions = [what for what, _ in measured[first]]
    F, main = len(definitions), main_figures(definitions)[0]
    parts = [Means.of(reduced[name], measured[name]) for name in runs]
    means = Means(
        np.hstack([part.top for part in parts]), np.hstack([part.bottom for part in parts]),
        np.tile(parts[0].spread, len(runs)), parts[0].category,
    )  # fmt: skip
    pairs = reduced[first].drop_duplicates("pair").set_index("pair")
    usable = np.flatnonzero((means.bottom > 0).any(1))
    if not len(usable):
        raise UserError(f"{', '.join(tables)}: no pair that all of them have has a key-point")
    means = Means(means.top[usable], means.bottom[usable], means.spread, means.category[usable])
    counted = pairs.iloc[usable]
    groups = grouped(counted)
    chosen = [np.arange(len(usable)), *(np.flatnonzero(there) for _, _, there in groups)]
    values = [means(np.ones((1, len(usable))), group)[0].reshape(len(runs), F) for group in chosen]
    kinds = {
        "interval": resampled(means, by_pairs(len(usable)), chosen),
        "interval_by_image": resampled(means, by_images(counted.source, counted.target), chosen),
    }
    kinds = {kind: [v.reshape(-1, len(runs), F) for v in found] for kind, found in kinds.items()}
    correct = {name: by_point(measured[name], definitions[main].get("alpha")) for name in runs}

    figures = []
    for f, what in enumerate(definitions):
        for r, name in enumerate(runs):
            row = {"run": name, "name": what["name"], "unit": what["unit"], "average": what["average"]}
            row |= {"basis": what["basis"], "value": values[0][r, f]}
            row |= {kind: bounds(found[0][:, r, f]) for kind, found in kinds.items()}
            if r:
                row["difference"] = values[0][r, f] - values[0][0, f]
                for kind, found in kinds.items():
                    row[f"difference_{kind}"] = bounds(found[0][:, r, f] - found[0][:, 0, f])
                hits = [by_point(measured[run], what.get("alpha")) for run in (first, name)]
                if what["average"] == "key-points" and len(hits[0]):
                    a, b = (hit.to_numpy() for hit in hits)
                    row |= {"only_first": int((a & ~b).sum()), "only_here": int((b & ~a).sum())}
                    row["p"] = mcnemar(row["only_first"], row["only_here"])
            figures.append(row)
    by_group = []
    for g, (label, group, there) in enumerate(groups, start=1):
        drawn = kinds["interval"][g][:, :, main]
        differences = drawn - drawn[:, :1]
        by_group.append({
            "by": label, "group": group, "n_pairs": int(there.sum()), "values": values[g][:, main].tolist(),
            "differences": (values[g][1:, main] - values[g][0, main]).tolist(),
            "intervals": [bounds(differences[:, r]) if there.sum() > 1 else None for r in range(1, len(runs))],
        })  # fmt: skip
    by_pair = {name: measured[name][main][1].groupby(level=0).mean() for name in runs}
    layers = {
        name: pd.DataFrame([line.split() for line in table.drop_duplicates("pair")[SELECTION]])
        .astype("float64").mean().tolist()
        for name, table in reduced.items()
        if (table[SELECTION] != "").all()
    }  # fmt: skip
    return Comparison(
        words, sentences(reduced[first]), runs, figures, by_group,
        {name: most_changed(by_pair[first], by_pair[name], pairs) for name in others},
        layers, reduced, definitions[main], correct,
    )  # fmt: skip


def of_frame(measures: Sequence[Measure]) -> list[Measure]:
    """Those measured in the frame of the first."""
    return [(what, values) for what, values in measures if what["frame"] == measures[0][0]["frame"]]


def by_point(measures: Sequence[Measure], alpha: float | None) -> pd.Series:
    """Which key-points are correct at an alpha, indexed by pair; none where the metric does not say."""
    for what, values in measures:
        if what["average"] == "key-points" and what.get("alpha") == alpha:
            return values > 0
    return pd.Series(dtype=bool)


def grouped(pairs: pd.DataFrame) -> list[tuple[str, str, Reals]]:
    """The categories, and the grades of difficulty: label, group, and which pairs are in it."""
    names = sorted(pairs.category.unique())
    found = [("category", name, (pairs.category == name).to_numpy()) for name in names]
    for label, grades in BENCHMARKS[pairs.benchmark.iloc[0]].labels.items():
        if label != LEAKED and label in pairs and (pairs[label] >= 0).any():
            by_grade = pairs[label].map(dict(enumerate(grades))).fillna("unknown")
            present = [grade for grade in (*grades, "unknown") if (by_grade == grade).any()]
            name = label.removesuffix("_variation")
            found += [(name, grade, (by_grade == grade).to_numpy()) for grade in present]
    return found


def most_changed(before: pd.Series, after: pd.Series, pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """The pairs whose values changed most, the largest gain first, the largest loss last."""
    change = (after - before).dropna().sort_values(ascending=False, kind="stable")
    ends = [*change.index[change > 0][:MOST], *change.index[change < 0][-MOST:]]
    return [
        {
            "pair": int(i),
            **{k: pairs[k][i] for k in KEY},
            "first": before[i],
            "here": after[i],
            "change": change[i],
        }
        for i in ends
    ]
