"""Runs side by side: on the pairs that all of them have, their figures, and their differences with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dhpf.common.errors import UserError, count_text
from dhpf.evaluation.figures import main_figures, measure, pair_groups, pair_notes
from dhpf.evaluation.intervals import PairSums, group_intervals, mcnemar
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


def compare(
    tables: Mapping[str, pd.DataFrame],
    alphas: Sequence[float],
    thres: str,
    other_measures: Sequence[str] = (),
) -> Comparison:
    """Two or more tables of predictions side by side, in the frame that their main figure is measured in.

    Args: other_measures: keys of `METRICS`, measured beside the main one where all tables have what they need.
    Raises: UserError: they do not compare (see `align`).
    """
    aligned, pairs_note = align(tables)
    first, *others = runs = list(aligned)
    measures = {
        run: same_frame(measure(table, alphas, thres, other_measures)) for run, table in aligned.items()
    }
    common = set.intersection(*({(d["name"], d["average"]) for d, _ in of} for of in measures.values()))
    measures = {
        run: [(d, values) for d, values in of if (d["name"], d["average"]) in common]
        for run, of in measures.items()
    }
    definitions = pd.DataFrame([definition for definition, _ in measures[first]])
    main = main_figures([definition for definition, _ in measures[first]])[0]
    main_figure = measures[first][main][0]
    figures = long_table(aligned, measures)
    main_values = {run: measures[run][main][1].groupby(level=0).mean() for run in runs}
    pairs = pair_columns(aligned[first])
    selections = {run: layer_selection(pair_columns(table)) for run, table in aligned.items()}
    return Comparison(
        runs,
        pairs_note,
        pair_notes(aligned[first]),
        figures[figures.by == ""].join(definitions[["name", "unit", "average", "basis"]], on="figure"),
        figures[(figures.by != "") & (figures.figure == main)],
        {run: most_changed(main_values[first], main_values[run], pairs) for run in others},
        {run: rates.mean().tolist() for run, rates in selections.items() if rates is not None},
        aligned,
        main_figure,
        {run: correct_points(measures[run], main_figure.get("alpha")) for run in runs},
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
                    f"{name}: its {column} is {b}, that of {first} is {a}: such runs cannot be compared"
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
        return aligned, f"all on the same {count_text(len(common), 'pair')}"
    counts = ", ".join(f"{name} of {size}" for name, size in sizes.items())
    return aligned, f"on the {count_text(len(common), 'pair')} that all have ({counts})"


def long_table(tables: Mapping[str, pd.DataFrame], measures: Mapping[str, list[Measure]]) -> pd.DataFrame:
    """A row for every group of pairs, figure and run.

    Columns: by and group (all pairs: both empty), n_pairs, figure (a number), run, value, interval, interval_by_image;
    for other runs than the first difference, difference_interval, difference_interval_by_image and, of all pairs' share
    of key-points, only_first, only_here and p of McNemar's test.
    Raises: UserError: no pair has a key-point.
    """
    first, *_ = runs = list(tables)
    definitions = [definition for definition, _ in measures[first]]
    sums, counts, by_category, category = zip(
        *(PairSums.of(tables[run], measures[run]) for run in runs), strict=True
    )
    joined = PairSums(np.hstack(sums), np.hstack(counts), np.hstack(by_category), category[0])
    pairs = pair_columns(tables[first])
    usable = pairs[(joined.counts > 0).any(1)]
    if usable.empty:
        raise UserError(f"{', '.join(tables)}: no pair that all of them have has a key-point")
    chosen = {("", ""): pd.Series(True, usable.index)}
    chosen |= {(by, name): of for by, groups in pair_groups(usable).items() for name, of in groups.items()}
    masks = [group.reindex(pairs.index, fill_value=False).to_numpy() for group in chosen.values()]
    intervals = group_intervals(joined, pairs, masks)
    rows = []
    for k, ((by, group), mask) in enumerate(zip(chosen, masks, strict=True)):
        values = joined.means(np.ones((1, len(pairs))), np.flatnonzero(mask))[0]
        for figure, definition in enumerate(definitions):
            for number, run in enumerate(runs):
                column = number * len(definitions) + figure
                row: dict[str, Any] = {
                    "by": by.removesuffix("_variation"),
                    "group": group,
                    "n_pairs": int(mask.sum()),
                }
                row |= {
                    "figure": figure,
                    "run": run,
                    "value": values[column],
                    **intervals[k].intervals(column),
                }
                if run != first:
                    row["difference"] = values[column] - values[figure]
                    of_difference = intervals[k].intervals(column, figure)
                    row |= {f"difference_{kind}": interval for kind, interval in of_difference.items()}
                    if not by and definition["average"] == "key-points" and "measure" not in definition:
                        hits = (
                            correct_points(measures[each], definition.get("alpha")) for each in (first, run)
                        )
                        a, b = (hit.to_numpy() for hit in hits)
                        row |= {"only_first": int((a & ~b).sum()), "only_here": int((b & ~a).sum())}
                        row["p"] = mcnemar(row["only_first"], row["only_here"])
                rows.append(row)
    return pd.DataFrame(rows)


def same_frame(measures: Sequence[Measure]) -> list[Measure]:
    """The measures that are taken in the frame of the first."""
    return [(d, values) for d, values in measures if d["frame"] == measures[0][0]["frame"]]


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
