"""A comparison of runs as sections of a page or of text."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.comparison import KEY, Comparison
from dhpf.evaluation.intervals import DESCRIPTION, format_interval
from dhpf.report.formats import printable
from dhpf.report.gallery import LEGEND, OUTLINE_LEGEND, pair_drawing, pair_picture
from dhpf.report.page import Picture, Section

MCNEMAR = (
    "p: McNemar's exact test of the key-points that only one of the two runs predicts correctly. It takes key-points "
    "as independent; those of one pair are not, so p is too small."
)


KEYS = ("run", "name", "average")  # of a row: the run, the metric, what the mean is over


def title(found: Comparison) -> str:
    return f"Comparison of {', '.join(printable(run) for run in found.runs)}: {found.pairs_note}"


def sections(found: Comparison, benchmark: Benchmark | None = None) -> list[Section]:
    """All of a comparison; with a benchmark, also the pictures of the pairs that changed most.

    Raises: UserError: an image cannot be read.
    """
    first, *others = found.runs
    main, unit = found.main_figure, found.main_figure["unit"]
    in_unit = f" in {unit}" if unit else ""
    parts = [
        *(Section(text=note) for note in found.notes),
        figure_table(found, f"{main['name'].partition('@')[0]} of each run{in_unit}"),
        difference_table(found, f"Difference of each run from {first}{in_unit}"),
    ]
    for by, groups in found.groups.groupby("by", sort=False):
        differences = [text for run in others for text in (f"{run} − {first}", "95 % by pairs")]
        rows = []
        for group, runs in groups.groupby("group", sort=False):
            rows.append([group, runs.n_pairs.iloc[0], *(number(value, unit) for value in runs.value)])
            for run in runs.iloc[1:].itertuples():
                rows[-1] += [
                    number(run.difference, unit, "+"),
                    format_interval(run.difference_interval, unit),
                ]
        header = [str(by).capitalize(), "Pairs", *found.runs, *differences]
        parts.append(Section(f"{main['name']} by {by}{in_unit}", header, rows))
    if found.layers:
        rates = pd.DataFrame({run: pd.Series(values) for run, values in found.layers.items()}).to_numpy()
        rows = [[k, *("" if pd.isna(x) else f"{x:.3f}" for x in row)] for k, row in enumerate(rates)]
        header = ["Layer", *found.layers]
        parts.append(Section("Share of pairs that select each layer", header, rows, folded=True))
    for run in others:
        changed = found.changed[run]
        rows = [
            [*pair[:4], *(number(value, unit) for value in pair[4:6]), number(pair[6], unit, "+")]
            for pair in changed[["pair", *KEY, "first", "here", "change"]].itertuples(index=False)
        ]
        legend = (LEGEND if len(found.correct[first]) else OUTLINE_LEGEND) if benchmark and rows else ""
        header = ["Pair", "Category", "Source", "Target", first, run, "Change"]
        parts.append(Section(f"Pairs that changed most from {first} to {run}", header, rows, text=legend))
        if benchmark:
            for pair in changed.itertuples():
                values = {first: pair.first, run: pair.here}
                both = [picture(found, name, pair.pair, value, benchmark) for name, value in values.items()]
                parts.append(Section(pictures=both))
    return parts


def figure_table(found: Comparison, heading: str) -> Section:
    """The values of every run."""
    rows = [
        [*(row[k] for k in KEYS), *value_and_intervals(row, "value", ("interval", "interval_by_image"))]
        for row in found.figures.to_dict("records")
    ]
    header = ["Run", "Metric", "Mean over", "Value", "95 % by pairs", "95 % by images"]
    text = f"{found.main_figure['basis']}. {DESCRIPTION}"
    return Section(heading, header, rows, text=text, data=long_table(found))


def difference_table(found: Comparison, heading: str) -> Section:
    """The differences of the others from the first run."""
    first, rows = found.runs[0], []
    for row in found.figures[found.figures.run != first].to_dict("records"):
        kinds = ("difference_interval", "difference_interval_by_image")
        tested = pd.notna(row.get("p"))
        test = [int(row["only_first"]), int(row["only_here"]), f"{row['p']:.3g}"] if tested else [""] * 3
        rows.append([*(row[k] for k in KEYS), *value_and_intervals(row, "difference", kinds, "+"), *test])
    header = ["Run", "Metric", "Mean over", "Difference", "95 % by pairs", "95 % by images"]
    header += [f"Correct only in {first}", "Correct only in this run", "McNemar's p"]
    return Section(heading, header, rows, text=MCNEMAR)


def value_and_intervals(
    row: Mapping[str, Any], value: str, kinds: Iterable[str], sign: str = ""
) -> list[str]:
    return [
        number(row[value], row["unit"], sign),
        *(format_interval(row[kind], row["unit"]) for kind in kinds),
    ]


def long_table(found: Comparison) -> pd.DataFrame:
    """All numbers of a comparison, a row for every figure, group of pairs and run; an interval has two columns."""
    main = {key: found.main_figure[key] for key in ("name", "unit", "average")}
    layer = {"by": "layer", "name": "share of pairs that select the layer", "average": "pairs"}
    layers = [
        {**layer, "group": k, "run": run, "value": rate}
        for run, rates in found.layers.items()
        for k, rate in enumerate(rates)
    ]
    names = {"pair": "group", "here": "value", "change": "difference"}
    pairs = [pairs[[*names]].rename(columns=names).assign(run=run) for run, pairs in found.changed.items()]
    groups = pd.concat([found.groups, pd.concat(pairs).assign(by="pair")]).assign(**main)
    table = pd.concat([found.figures, groups, pd.DataFrame(layers)])
    for column in [name for name in table if "interval" in name]:
        ends = table.pop(column).map(lambda ends: ends if isinstance(ends, list) else [None, None])
        table[[f"{column}_low", f"{column}_high"]] = ends.tolist()
    table = table.drop(columns=["figure", "basis"]).rename(columns={"name": "figure"})
    table["by"] = table["by"].replace("", "all pairs")
    first = ["run", "figure", "unit", "average", "by", "group"]
    return table[[*first, *table.columns.difference(first, sort=False)]].convert_dtypes()


def picture(found: Comparison, run: str, pair: int, value: float, benchmark: Benchmark) -> Picture:
    """The picture of a run's predictions for a pair."""
    rows = found.tables[run][found.tables[run].pair == pair]
    correct = found.correct[run].loc[[pair]].to_numpy() if len(found.correct[run]) else None
    name, unit = found.main_figure["name"], found.main_figure["unit"]
    title = f"{run}: pair {pair}, {rows.category.iloc[0]}, {name} {number(value, unit)} {unit}".strip()
    return pair_picture(**pair_drawing(benchmark, rows, correct), title=title)


def number(value: float | None, unit: str, sign: str = "") -> str:
    if value is None or pd.isna(value):
        return "undefined"
    return f"{value:{sign}.2f}" if unit else f"{value:{sign}.4f}"
