"""Runs side by side: on the pairs that all of them have, their figures, and their differences with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from dhpf.common.errors import UserError
from dhpf.evaluation.figures import main_figures, measure, pair_groups, pair_notes
from dhpf.evaluation.intervals import PairSums, mcnemar, percentile_interval, resample_groups
from dhpf.evaluation.metrics import Measure
from dhpf.evaluation.predictions import layer_selection, pair_columns

SAME = ("benchmark", "img_side", "auto_thres")
KEY = ["category", "source", "target"]
NUMBERS = ["source_x", "source_y", "target_x", "target_y", "bbox_width", "bbox_height"]
TOLERANCE = 1e-3  # pixels of the frame
MAX_CHANGED = 5  # pairs that changed most, either way


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    runs: their names; the others are compared with the first.  pairs_note: which pairs are compared.  notes: what the
    figures are of, in sentences.
    figures: for each figure and run its definition, value and intervals, the difference from the first run with its
    intervals, and by McNemar's test how many key-points only one of the two predicts correctly.
    groups: for each category and grade of difficulty, and each run, the main figure's value, and the difference from
    the first run with its intervals.
    changed: for each other run the pairs that changed most.  layers: selection rates by run.
    tables: the rows that were compared.  main_figure: the definition of the figure that stands for a run.
    correct: for each run which key-points are correct, indexed by pair.
    """

    runs: list[str]
    pairs_note: str
    notes: list[str]
    figures: pd.DataFrame
    groups: pd.DataFrame
    changed: dict[str, pd.DataFrame]
    layers: dict[str, list[float]]
    tables: dict[str, pd.DataFrame]
    main_figure: dict[str, Any]
    correct: dict[str, pd.Series]


def compare(tables: Mapping[str, pd.DataFrame], alphas: Sequence[float], thres: str) -> Comparison:
    """Two or more tables of predictions side by side, in the frame that their main figure is measured in.

    Raises: UserError: they do not compare (see `align`).
    """
    aligned, pairs_note = align(tables)
    first, *others = runs = list(aligned)
    measures = {run: measure(table, alphas, thres) for run, table in aligned.items()}
    frame = measures[first][0][0]["frame"]
    measures = {run: [m for m in each if m[0]["frame"] == frame] for run, each in measures.items()}
    definitions = [definition for definition, _ in measures[first]]
    main = main_figures(definitions)[0]
    table = long_table(aligned, measures)
    figures = table[table.by == ""].merge(mcnemar_table(measures), how="left", on=["figure", "run"])
    texts = pd.DataFrame(definitions)[["name", "unit", "average", "basis"]]
    main_values = {run: measures[run][main][1].groupby(level=0).mean() for run in runs}
    pairs = pair_columns(aligned[first])
    selections = {run: layer_selection(pair_columns(rows)) for run, rows in aligned.items()}
    return Comparison(
        runs,
        pairs_note,
        pair_notes(aligned[first]),
        figures.join(texts, on="figure"),
        table[(table.by != "") & (table.figure == main)],
        {run: most_changed(main_values[first], main_values[run], pairs) for run in others},
        {run: rates.mean().tolist() for run, rates in selections.items() if rates is not None},
        aligned,
        definitions[main],
        {run: correct_points(measures[run], definitions[main].get("alpha")) for run in runs},
    )


def align(tables: Mapping[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], str]:
    """The rows of the pairs that all tables have, in the first one's order and under its numbers, and a sentence which.

    Raises: UserError: other benchmarks, frames or thresholds; no common pair; one of other points.
    """
    first, *others = tables
    common = pd.DataFrame()
    for k, (name, table) in enumerate(tables.items()):
        for column in SAME:
            a, b = tables[first][column].iloc[0], table[column].iloc[0]
            if a != b:
                raise UserError(
                    f"{name}: its {column} is {b}, that of {first} is {a}: such figures do not compare"
                )
        pairs = table.drop_duplicates("pair")[["pair", *KEY]]
        # Own data may have a pair of images more than once.
        pairs = pairs.assign(again=pairs.groupby(KEY).cumcount()).rename(columns={"pair": k})
        common = common.merge(pairs, on=[*KEY, "again"]) if k else pairs
    if common.empty:
        raise UserError(f"{', '.join(tables)}: there is no pair that all of them have")
    aligned = {}
    for k, (name, table) in enumerate(tables.items()):
        rows = table[table.pair.isin(common[k])]
        rows = rows.assign(pair=rows.pair.map(dict(zip(common[k], common[0], strict=True))))
        aligned[name] = rows.sort_values(["pair", "point"], kind="stable").reset_index(drop=True)
    for name in others:
        a, b = (aligned[run][NUMBERS] for run in (first, name))
        if len(a) != len(b) or not np.allclose(a, b, rtol=0, atol=TOLERANCE, equal_nan=True):
            raise UserError(
                f"{name}: a pair has other key-points or another box than in {first}: compare one list"
            )
    sizes = {name: table.pair.nunique() for name, table in tables.items()}
    if set(sizes.values()) == {len(common)}:
        return aligned, f"all on the same {len(common)} pairs"
    counts = ", ".join(f"{name} of {size}" for name, size in sizes.items())
    return aligned, f"reduced to the {len(common)} pairs that all have: {counts}"


def long_table(tables: Mapping[str, pd.DataFrame], measures: Mapping[str, list[Measure]]) -> pd.DataFrame:
    """A row for every group of pairs, figure and run, all from the same resamples.

    Columns: by and group (all pairs: both empty), n_pairs, figure (a number), run, value, interval, interval_by_image
    and, from the first run, difference, difference_interval and difference_interval_by_image.
    Raises: UserError: no pair has a key-point.
    """
    first, *_ = runs = list(tables)
    figures = range(len(measures[first]))
    columns = pd.MultiIndex.from_product([runs, figures])
    parts = zip(*(PairSums.of(tables[run], measures[run]) for run in runs), strict=True)
    sums, counts, by_category, category = parts
    joined = PairSums(np.hstack(sums), np.hstack(counts), np.hstack(by_category), category[0])
    pairs = pair_columns(tables[first])
    usable = pairs[(joined.counts > 0).any(1)]
    if usable.empty:
        raise UserError(f"{', '.join(tables)}: no pair that all of them have has a key-point")
    groups = {("", ""): pd.Series(True, usable.index)}
    for by, chosen in pair_groups(usable).items():
        groups |= {(by.removesuffix("_variation"), name): mask for name, mask in chosen.items()}
    masks = [mask.reindex(pairs.index, fill_value=False).to_numpy() for mask in groups.values()]
    resampled = resample_groups(joined, pairs, masks)
    rows: list[dict[str, Any]] = []
    for k, ((by, group), mask) in enumerate(zip(groups, masks, strict=True)):
        n_pairs = int(mask.sum())
        values = pd.Series(joined.means(np.ones((1, len(pairs))), np.flatnonzero(mask))[0], columns)
        draws = {kind: pd.DataFrame(of_groups[k], columns=columns) for kind, of_groups in resampled.items()}
        for figure, run in product(figures, runs):
            row = {"by": by, "group": group, "n_pairs": n_pairs, "figure": figure, "run": run}
            row |= {"value": values[run, figure], "difference": values[run, figure] - values[first, figure]}
            for kind, drawn in draws.items():
                differences = drawn[run, figure] - drawn[first, figure]
                row[kind] = percentile_interval(drawn[run, figure])
                row[f"difference_{kind}"] = percentile_interval(differences) if n_pairs > 1 else None
            rows.append(row)
    return pd.DataFrame(rows)


def mcnemar_table(measures: Mapping[str, list[Measure]]) -> pd.DataFrame:
    """For each share of key-points and each run but the first: how many only one of the two predicts, and p."""
    first, *others = measures
    rows = []
    for figure, (definition, _) in enumerate(measures[first]):
        for run in others if definition["average"] == "key-points" else ():
            a, b = (measures[name][figure][1].to_numpy() > 0 for name in (first, run))
            only = int((a & ~b).sum()), int((b & ~a).sum())
            rows.append((figure, run, *only, mcnemar(*only)))
    return pd.DataFrame(rows, columns=["figure", "run", "only_first", "only_here", "p"])


def correct_points(measures: Sequence[Measure], alpha: float | None) -> pd.Series:
    """Which key-points are correct at an alpha, indexed by pair; none where the metric does not say."""
    for definition, values in measures:
        if definition["average"] == "key-points" and definition.get("alpha") == alpha:
            return values > 0
    return pd.Series(dtype=bool)


def most_changed(before: pd.Series, after: pd.Series, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs whose values changed most, the largest gain first, the largest loss last."""
    changed = pairs[KEY].assign(first=before, here=after, change=after - before).dropna(subset="change")
    changed = changed.sort_values("change", ascending=False, kind="stable")
    gains, losses = changed[changed.change > 0], changed[changed.change < 0]
    return pd.concat([gains.head(MAX_CHANGED), losses.tail(MAX_CHANGED)]).reset_index()
