"""A comparison of runs as sections of a page or of text."""

from typing import Any

import numpy as np

from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.comparison import Comparison
from dhpf.evaluation.intervals import WORDS, written
from dhpf.report import pictures
from dhpf.report.formats import cell
from dhpf.report.page import Section, picture

MCNEMAR = (
    "p: McNemar's exact test of the key-points that only one of the two runs predicts correctly; it takes key-points "
    "as independent, which those of one pair are not, so that it is too small"
)


def number(value: float | None, unit: str, sign: str = "") -> str:
    if value is None or np.isnan(value):
        return "undefined"
    return f"{value:{sign}.2f}" if unit else f"{value:{sign}.4f}"


def sections(found: Comparison, benchmark: Benchmark | None = None) -> list[Section]:
    """All of a comparison; with a benchmark, also the pictures of the pairs that changed most."""
    first, *others = found.runs
    unit = found.headline["unit"]
    rows = []
    for row in found.figures:
        between = [written(row[kind], row["unit"]) for kind in ("interval", "interval_by_image")]
        line = [row["run"], row["name"], row["average"], number(row["value"], row["unit"]), *between]
        if "difference" in row:
            kinds = ("difference_interval", "difference_interval_by_image")
            line += [
                number(row["difference"], row["unit"], "+"),
                *(written(row[k], row["unit"]) for k in kinds),
            ]
        else:
            line += ["", "", ""]
        rows.append(
            [*line, *((row["only_first"], row["only_here"], f"{row['p']:.3g}") if "p" in row else ("",) * 3)]
        )
    header = [
        "Run", "Figure", "mean over", f"value {unit}".strip(), "by pairs", "by images", f"− {first}", "by pairs",
        "by images", "only there", "only here", "p",
    ]  # fmt: skip
    parts = [*(Section(text=line) for line in found.about)]
    parts.append(Section("Figures", header, rows, text=f"{found.headline['basis']}. {WORDS}. {MCNEMAR}."))
    for label in dict.fromkeys(group["by"] for group in found.groups):
        header = [label, "Pairs", *found.runs]
        header += [text for name in others for text in (f"{name} − {first}", "by pairs")]
        rows = []
        for group in found.groups:
            if group["by"] == label:
                rows.append([group["group"], group["n_pairs"], *(number(v, unit) for v in group["values"])])
                for value, interval in zip(group["differences"], group["intervals"], strict=True):
                    rows[-1] += [number(value, unit, "+"), written(interval, unit)]
        parts.append(Section(f"{found.headline['name']} by {label}", header, rows))
    if found.layers:
        names, K = list(found.layers), max(map(len, found.layers.values()))
        rates = [[f"{x:.3f}" for x in rate] + [""] * (K - len(rate)) for rate in found.layers.values()]
        rows = [[k, *(rate[k] for rate in rates)] for k in range(K)]
        parts.append(Section("Share of pairs that select each layer", ["Layer", *names], rows))
    header = ["Pair", "Category", "Source", "Target", first, "here", "change"]
    for name in others:
        rows, drawn = [], []
        for pair in found.changed[name]:
            values = [number(pair[k], unit, "+" * (k == "change")) for k in ("first", "here", "change")]
            rows.append([pair["pair"], pair["category"], pair["source"], pair["target"], *values])
            if benchmark is not None:
                drawn += [drawing(found, run, pair["pair"], benchmark) for run in (first, name)]
        title = f"Pairs that changed most from {first} to {name}"
        parts.append(Section(title, header, rows, pictures=drawn))
    return parts


def drawing(found: Comparison, run: str, pair: int, benchmark: Benchmark) -> dict[str, Any]:
    """The picture of a run's predictions for a pair."""
    table, correct = found.tables[run], found.correct[run]
    rows = table[table.pair == pair]
    source, predicted, target = (
        rows[[f"{end}_x", f"{end}_y"]].to_numpy().T for end in ("source", "predicted", "target")
    )
    asked = np.isfinite(source[0])
    source_image, target_image = (
        benchmark.pil_image(rows[end].iloc[0]).resize((benchmark.img_side,) * 2) for end in ("source", "target")
    )
    hits = correct.loc[[pair]].to_numpy() if len(correct) else None
    there = target[:, np.isfinite(target[0])]
    figure = pictures.matches(source_image, target_image, source[:, asked], predicted[:, asked], there, hits)
    return picture(figure, "Matches", f"pair {pair}, {rows.category.iloc[0]}: {run}", "jpg")


def title_of(found: Comparison) -> str:
    return f"{', '.join(cell(name) for name in found.runs)}: {found.pairs}"
