"""A comparison of runs as sections of a page or of text."""

from typing import Any

import pandas as pd

from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.comparison import Comparison
from dhpf.evaluation.intervals import DESCRIPTION, format_interval
from dhpf.report.formats import printable
from dhpf.report.gallery import LEGEND, OUTLINE_LEGEND, pair_drawing, pair_picture
from dhpf.report.page import Picture, Section

MCNEMAR = (
    "p: McNemar's exact test of the key-points that only one of the two runs predicts correctly; it takes key-points "
    "as independent, which those of one pair are not, so that it is too small"
)
INTERVALS = ("interval", "interval_by_image")


def title(found: Comparison) -> str:
    return f"{', '.join(printable(run) for run in found.runs)}: {found.pairs_note}"


def sections(found: Comparison, benchmark: Benchmark | None = None) -> list[Section]:
    """All of a comparison; with a benchmark, also the pictures of the pairs that changed most.

    Raises: UserError: an image cannot be read.
    """
    first, *others = found.runs
    definition, unit = found.main_figure, found.main_figure["unit"]
    in_unit, intervals = f" in {unit}" if unit else "", ["95 % by pairs", "95 % by images"]
    header, rows = ["Run", "Figure", "Mean over"], []
    differences: list[list[Any]] = []
    for row in found.figures.to_dict("records"):
        name = [row["run"], row["name"], row["average"]]
        rows.append(
            [*name, number(row["value"], unit), *(format_interval(row[kind], unit) for kind in INTERVALS)]
        )
        if row["run"] != first:
            kinds = (format_interval(row[f"difference_{kind}"], unit) for kind in INTERVALS)
            test = (
                [int(row["only_first"]), int(row["only_here"]), f"{row['p']:.3g}"]
                if pd.notna(row.get("p"))
                else [""] * 3
            )
            differences.append([*name, number(row["difference"], unit, "+"), *kinds, *test])
    only = [f"Correct only in {first}", "Correct only in the run", "McNemar's p"]
    parts = [
        *(Section(text=note) for note in found.notes),
        Section(
            f"Figures{in_unit}",
            [*header, "Value", *intervals],
            rows,
            text=f"{definition['basis']}. {DESCRIPTION}.",
            data=long_table(found),
        ),
        Section(
            f"Differences from {first}{in_unit}",
            [*header, "Difference", *intervals, *only],
            differences,
            text=f"{MCNEMAR}.",
        ),
    ]
    for by, groups in found.groups.groupby("by", sort=False):
        header = [str(by).capitalize(), "Pairs", *found.runs]
        header += [text for run in others for text in (f"{run} − {first}", intervals[0])]
        rows = []
        for group, runs in groups.groupby("group", sort=False):
            rows.append([group, runs.n_pairs.iloc[0], *(number(value, unit) for value in runs.value)])
            for run in runs.iloc[1:].itertuples():
                rows[-1] += [
                    number(run.difference, unit, "+"),
                    format_interval(run.difference_interval, unit),
                ]
        parts.append(Section(f"{definition['name']} by {by}{in_unit}", header, rows))
    if found.layers:
        rates = pd.DataFrame(dict(zip(found.layers, map(pd.Series, found.layers.values()), strict=True)))
        rows = [
            [k, *("" if pd.isna(rate) else f"{rate:.3f}" for rate in row)]
            for k, row in enumerate(rates.to_numpy())
        ]
        parts.append(
            Section("Share of pairs that select each layer", ["Layer", *found.layers], rows, folded=True)
        )
    for run, changed in found.changed.items():
        header, rows = ["Pair", "Category", "Source", "Target", first, run, "Change"], []
        drawn = []
        for pair in changed.itertuples():
            rows.append(
                [
                    pair.pair,
                    pair.category,
                    pair.source,
                    pair.target,
                    *(number(x, unit) for x in (pair.first, pair.here)),
                ]
            )
            rows[-1].append(number(pair.change, unit, "+"))
            if benchmark:
                both = [
                    pair_of(found, first, pair.pair, pair.first, benchmark),
                    pair_of(found, run, pair.pair, pair.here, benchmark),
                ]
                drawn.append(Section(pictures=both))
        text = (LEGEND if len(found.correct[first]) else OUTLINE_LEGEND) * bool(drawn)
        parts += [Section(f"Pairs that changed most from {first} to {run}", header, rows, text=text), *drawn]
    return parts


def pair_of(found: Comparison, run: str, pair: int, value: float, benchmark: Benchmark) -> Picture:
    """The picture of a run's predictions for a pair."""
    table, correct, definition = found.tables[run], found.correct[run], found.main_figure
    rows = table[table.pair == pair]
    right = correct.loc[[pair]].to_numpy() if len(correct) else None
    figure = f"{definition['name']} {number(value, definition['unit'])} {definition['unit']}".strip()
    drawing = pair_drawing(benchmark, rows, right)
    return pair_picture(**drawing, title=f"{run}: pair {pair}, {rows.category.iloc[0]}, {figure}")


def long_table(found: Comparison) -> pd.DataFrame:
    """All numbers of a comparison, a row for every figure, group of pairs and run; an interval has two columns."""
    main = {key: found.main_figure[key] for key in ("name", "unit", "average")}
    layers = [
        {
            "name": "share of pairs that select the layer",
            "average": "pairs",
            "by": "layer",
            "group": k,
            "run": run,
            "value": rate,
        }
        for run, rates in found.layers.items()
        for k, rate in enumerate(rates)
    ]
    changed = [
        {**main, "by": "pair", "group": pair.pair, "run": run, "value": pair.here, "difference": pair.change}
        for run, pairs in found.changed.items()
        for pair in pairs.itertuples()
    ]
    table = pd.concat(
        [found.figures, found.groups.assign(**main), pd.DataFrame(layers), pd.DataFrame(changed)]
    )
    for column in [name for name in table if "interval" in name]:
        ends = table.pop(column).map(lambda ends: ends if isinstance(ends, list) else [None, None])
        table[[f"{column}_low", f"{column}_high"]] = ends.tolist()
    return table.drop(columns=["figure", "basis"]).rename(columns={"name": "figure"})


def number(value: float | None, unit: str, sign: str = "") -> str:
    if value is None or pd.isna(value):
        return "undefined"
    return f"{value:{sign}.2f}" if unit else f"{value:{sign}.4f}"
