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
    about = f"{definition['basis']}. {DESCRIPTION}."
    parts = [
        *(Section(text=note) for note in found.notes),
        Section("Figures", *figure_table(found), text=about, data=long_table(found)),
        Section(f"Differences from {first}", *difference_table(found), text=f"{MCNEMAR}."),
    ]
    for by, groups in found.groups.groupby("by", sort=False):
        header = [str(by).capitalize(), "Pairs", *found.runs]
        header += [text for run in others for text in (f"{run} − {first}", "95 % by pairs")]
        rows = []
        for group, of_group in groups.groupby("group", sort=False):
            rows.append([group, of_group.n_pairs.iloc[0], *(number(value, unit) for value in of_group.value)])
            for row in of_group[of_group.run != first].itertuples():
                rows[-1] += [
                    number(row.difference, unit, "+"),
                    format_interval(row.difference_interval, unit),
                ]
        parts.append(Section(f"{definition['name']} by {by}", header, rows))
    if found.layers:
        rates = pd.DataFrame.from_dict(
            found.layers, orient="index"
        ).T  # runs may have different numbers of layers
        rows = [
            [k, *("" if pd.isna(x) else f"{x:.3f}" for x in row)] for k, row in enumerate(rates.to_numpy())
        ]
        parts.append(Section("Share of pairs that select each layer", ["Layer", *found.layers], rows))
    for run, changed in found.changed.items():
        header = ["Pair", "Category", "Source", "Target", first, run, "Change"]
        rows = [
            [
                p.pair,
                p.category,
                p.source,
                p.target,
                *(number(x, unit) for x in (p.first, p.here)),
                number(p.change, unit, "+"),
            ]
            for p in changed.itertuples()
        ]
        legend = OUTLINE_LEGEND if found.correct[first].empty else LEGEND
        text = legend if benchmark and rows else ""
        parts.append(Section(f"Pairs that changed most from {first} to {run}", header, rows, text=text))
        for pair in changed.itertuples() if benchmark else ():
            values = {first: pair.first, run: pair.here}
            parts.append(
                Section(pictures=[drawn(found, r, pair, value, benchmark) for r, value in values.items()])
            )
    return parts


def figure_table(found: Comparison) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the runs' own values."""
    header = [
        "Run",
        "Figure",
        "Mean over",
        f"Value {found.main_figure['unit']}".strip(),
        "95 % by pairs",
        "95 % by images",
    ]
    rows = [
        [row["run"], row["name"], row["average"], number(row["value"], row["unit"])]
        + [format_interval(row[kind], row["unit"]) for kind in INTERVALS]
        for row in found.figures.to_dict("records")
    ]
    return header, rows


def difference_table(found: Comparison) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the differences of the others from the first run."""
    first = found.runs[0]
    header = ["Run", "Figure", "Mean over", "Difference", "95 % by pairs", "95 % by images"]
    header += [f"Correct only in {first}", "Correct only in the run", "McNemar's p"]
    rows = []
    for row in found.figures[found.figures.run != first].to_dict("records"):
        rows.append([row["run"], row["name"], row["average"], number(row["difference"], row["unit"], "+")])
        rows[-1] += [format_interval(row[f"difference_{kind}"], row["unit"]) for kind in INTERVALS]
        tested = pd.notna(row.get("p"))
        rows[-1] += [int(row["only_first"]), int(row["only_here"]), f"{row['p']:.3g}"] if tested else [""] * 3
    return header, rows


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


def drawn(found: Comparison, run: str, pair: Any, value: float, benchmark: Benchmark) -> Picture:
    """The picture of a run's predictions for a pair."""
    table, correct, definition = found.tables[run], found.correct[run], found.main_figure
    right = correct.loc[[pair.pair]].to_numpy() if len(correct) else None
    caption = (
        f"{run}: pair {pair.pair}, {pair.category}, {definition['name']} {number(value, definition['unit'])}"
    )
    drawing = pair_drawing(benchmark, table[table.pair == pair.pair], right)
    return pair_picture(**drawing, title=f"{caption} {definition['unit']}".strip())


def number(value: float | None, unit: str, sign: str = "") -> str:
    if value is None or pd.isna(value):
        return "undefined"
    return f"{value:{sign}.2f}" if unit else f"{value:{sign}.4f}"
