"""The report of a test: `report.html`, `pictures/` and pages to explore pairs, in the folder of its run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dhpf.common.files import is_file, replace_file
from dhpf.common.processes import peak_memory
from dhpf.common.run import progress
from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.figures import averages, main_figures, measure
from dhpf.evaluation.intervals import format_interval
from dhpf.evaluation.metrics import AVERAGES, Figure, Measure
from dhpf.evaluation.predictions import pair_columns
from dhpf.evaluation.results import format_value
from dhpf.matching import drawing
from dhpf.matching.matcher import Matcher
from dhpf.report import pictures
from dhpf.report.explorer import explorer
from dhpf.report.gallery import LEGEND, OUTLINE_LEGEND, pair_drawing, pair_picture
from dhpf.report.page import DPI, REPORT, Picture, Section, option_sections, table_rows, write_report

PICTURES, EXPLORERS = "pictures", "explorer"
CURVE_ALPHAS = tuple(np.linspace(0.01, 0.2, 20).round(2).tolist())
SHOWN_PAIRS = 3  # of the best, the median and the worst
KEPT_IMAGES = 8  # whose features are kept while pages to explore are made


@dataclass(frozen=True)
class TestRun:
    """A finished test, as its report needs it.

    folder: of the run; title: what was measured, in words; benchmark: what on, whose images are shown.
    table: the merged table of predictions; results: what `save_results` made of it.
    options, defaults: all options, and what they are when they are not given; resources: time and memory, in words.
    command: what was typed; draw_command: what to type to draw a pair, whose number is written behind it.
    matcher: what predicted, if it can predict for other points.
    """

    folder: Path
    title: str
    benchmark: Benchmark
    table: pd.DataFrame
    results: Mapping[str, Any]
    options: Mapping[str, Any]
    resources: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    draw_command: str = ""
    matcher: Matcher | None = None


def report_test(run: TestRun, explore_pairs: int = 12) -> None:
    """Writes the report of a test, and as PNG and PDF its best, median and worst pairs, its layers and its PCK by α.

    Args: explore_pairs: how many pairs get a page to explore them, in the order in which the report shows them.
    Raises: UserError: an image cannot be read any more, or a file cannot be written.
    """
    figures, alphas = run.results["figures"], run.results["options"]["alpha"]
    measures = measure(run.table, sorted({*alphas, *CURVE_ALPHAS}), run.results["options"]["thres"])
    reported = [(what, values) for what, values in measures if what.get("alpha", alphas[0]) in alphas]
    pairs = pair_values(run.table, reported)
    points = next((reported[i][1] for i in main_figures([what for what, _ in reported], "key-points")), None)
    extremes, by_category = choose_pairs(pairs)
    in_order = [*chain(*extremes.values(), *by_category.values()), *pairs.dropna().index]
    links = write_explorers(run, pairs, list(dict.fromkeys(in_order))[:explore_pairs])

    def drawing(pair: int) -> dict[str, Any]:
        correct = None if points is None else points.loc[[pair]].to_numpy() > 0
        rows = run.table[run.table.pair == pair]
        return pair_drawing(run.benchmark, rows, correct) | {"title": pairs.title[pair]}

    def gallery(heading: str, chosen: Sequence[int], folded: bool) -> Section:
        drawn = [pair_picture(**drawing(pair), link=links.get(pair, "")) for pair in chosen]
        return Section(heading, pictures=drawn, folded=folded)

    curves = pck_curves(run.table, measures)
    sheet = {name: list(map(drawing, chosen)) for name, chosen in extremes.items()}
    png = write_pictures(run.folder / PICTURES, sheet, figures, curves)
    header = ["Pair", "Category", "Source", "Target", "Key-points", *pairs.columns[5:]]
    listed = table_rows(pairs.drop(columns="title").reset_index(), 1 if figures["totals"][0]["unit"] else 3)
    sections = [
        *summary(run.title, figures, png),
        Section("Pairs", text=OUTLINE_LEGEND if points is None else LEGEND),
        *(gallery(name.capitalize(), chosen, folded=False) for name, chosen in extremes.items()),
        Section("All pairs", header, listed, True, True, run.draw_command, links),
        *(gallery(name, chosen, folded=True) for name, chosen in by_category.items()),
        *details(figures),
        Section("Time and memory", folded=True, facts=run.resources),
        *option_sections(run.options, run.defaults),
        reproduction(run),
    ]
    subject = "Predictions for" if "predictions" in run.results else "DHPF on"
    write_report(run.folder / REPORT, f"{subject} {figures['about'][0]}", sections)


# Pairs and their pictures


def pair_values(table: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """A row for each pair, the worst first, those without a value last: category, source, target, n_pts, title, and its
    value of each main figure."""
    definitions = [definition for definition, _ in measures]
    main = main_figures(definitions)
    values = pd.DataFrame({definitions[i]["name"]: measures[i][1].groupby(level=0).mean() for i in main})
    pairs = pair_columns(table)[["category", "source", "target", "n_pts"]]
    name, unit = definitions[main[0]]["name"], definitions[main[0]]["unit"]
    texts = values[name].map(lambda value: f"{value:.1f} {unit}" if unit else f"{value:.3f}")
    pairs["title"] = [
        f"pair {pair}, {pictures.short(category)}: {name} {texts.get(pair)}"
        for pair, category in pairs.category.items()
    ]
    return pairs.join(values).sort_values(list(values), kind="stable")


def choose_pairs(pairs: pd.DataFrame) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """The pairs that are shown, none twice: the best, median and worst; and by heading some of each category."""
    values = pairs.iloc[:, 5]
    extremes = {name: found for name, found in pictures.extremes(values, SHOWN_PAIRS).items() if found}
    shown, by_category = set(chain(*extremes.values())), {}
    for category, of_category in values.groupby(pairs.category):
        found = pictures.extremes(of_category, 1)
        chosen = [pair for name in ("worst", "median", "best") for pair in found[name] if pair not in shown]
        if chosen:
            by_category[f"Pairs of {pictures.short(category, 60)}: worst, median, best"] = chosen
    return extremes, by_category


def write_explorers(run: TestRun, pairs: pd.DataFrame, chosen: Sequence[int]) -> dict[int, str]:
    """Writes a page to explore each of the chosen pairs; returns their addresses."""
    if run.matcher is None:
        return {}
    matcher, benchmark = run.matcher, run.benchmark
    encode = lru_cache(KEPT_IMAGES)(lambda key: matcher.encode(benchmark.pil_image(key), key))
    links = {}
    with progress("pages to explore", len(chosen), not run.options.get("quiet")) as advance:
        for pair in pairs.loc[list(chosen)].sort_values(["source", "target"]).itertuples():
            names = [pair.source, pair.target]
            files = [benchmark.root / name for name in names]
            if all(map(is_file, files)):  # else it was drawn, and has its key alone
                names = [os.path.relpath(file, run.folder / EXPLORERS) for file in files]
            page = explorer(matcher, (encode(pair.source), encode(pair.target)), names, pair.title, run.title)
            links[pair.Index] = f"{EXPLORERS}/{pair.Index}.html"
            replace_file(run.folder / links[pair.Index], page)
            advance(1)
    return links


def pck_curves(table: pd.DataFrame, measures: Sequence[Measure]) -> pd.DataFrame:
    """PCK in percent by α, a column for each frame and average; empty where the metric has no α."""
    figures = averages(table, measures, [pair_columns(table).n_pts >= 0])[0]
    long = pd.DataFrame([figure for figure in figures if "alpha" in figure])
    if long.empty:
        return long
    return long.pivot(index="alpha", columns=["average", "frame"], values="value").astype(float)


def write_pictures(
    folder: Path, sheet: Mapping[str, Any], figures: Mapping[str, Any], curves: pd.DataFrame
) -> dict[str, bytes]:
    """Writes the pictures for papers, as PNG and PDF, and the curve's numbers; returns the content of the PNG files."""
    drawn = {"matches": pictures.contact_sheet(sheet)} if sheet else {}
    if selection := figures.get("layer_selection"):
        rates = {**selection["categories"], "all pairs": selection["total"]}
        if np.ptp(list(rates.values())) > 0:  # else it has one colour everywhere
            drawn["layers"] = pictures.layer_selection(rates)
    if len(curves):
        drawn["pck-curve"] = pictures.pck_curve(curves["pairs"].to_dict())
        columns = [f"mean over {average}, {frame}" for average, frame in curves.columns]
        content = curves.set_axis(columns, axis=1).to_csv(lineterminator="\n")
        replace_file(folder / "pck-curve.csv", content.encode())
    png = {}
    for name, figure in drawn.items():
        png[name] = drawing.render(figure, "png", DPI)
        replace_file(folder / f"{name}.png", png[name])
        replace_file(folder / f"{name}.pdf", drawing.render(figure, "pdf", DPI))
    return png


# Sections of the page


def summary(title: str, figures: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    """What was measured, the main figures, one table of names (of PCK with their α) × averages, and charts."""
    totals, main, tiles = figures["totals"], main_figures(figures["totals"]), []
    for figure in [group[i] for group in (totals, without_leaked(figures)) if group for i in main]:
        note = (
            f"mean over {AVERAGES.get(figure['average'], figure['average'])}, {figure['basis']}"
            + ", the paper's definition" * figure["paper"]
        )
        if figure["interval"]:
            note += f"; 95 % interval {format_interval(figure['interval'], figure['unit'])}"
        tiles.append((figure["name"], format_value(figure, 1), note))
    frame, alpha = totals[main[0]]["frame"], totals[main[0]].get("alpha")
    rows: dict[str, dict[str, str]] = {}
    for figure in sorted(totals, key=lambda figure: figure["frame"] != frame):
        in_frame = figure["frame"] == frame
        if in_frame or figure.get("alpha") == alpha:
            name = figure["name"] if in_frame else f"{figure['name']}, {figure['frame']}"
            rows.setdefault(name, {})[figure["average"]] = format_value(figure, 1)
    averages = list(dict.fromkeys(figure["average"] for figure in totals))
    header = ["Metric", *(f"mean over {average}" for average in averages)]
    cells = [[name, *(values.get(average, "") for average in averages)] for name, values in rows.items()]
    selection = figures.get("layer_selection", {"total": [], "definition": ""})
    charts = {
        "pck-curve": ("Curves", "PCK against α, the share of the threshold; mean over pairs"),
        "layers": ("Heat map", selection["definition"]),
    }
    drawn = [Picture.of_png(png[name], *about) for name, about in charts.items() if name in png]
    return [
        *(Section(text=line) for line in (title, *figures["about"][1:])),  # the first is the page's title
        Section(tiles=tiles),
        Section(f"In the {frame}", header, cells),
        Section("Charts", pictures=drawn),
        Section(text=layer_note(selection["total"]) if "layers" not in png else ""),
    ]


def layer_note(rates: Sequence[float]) -> str:
    """A sentence where all pairs select all layers, or all layers are selected alike."""
    return f"Each of the {len(rates)} layers is selected by {rates[0]:.0%} of the pairs." if rates else ""


def details(figures: Mapping[str, Any]) -> list[Section]:
    """All else that was measured, folded: groups, points, kinds and sizes of errors, intervals and definitions."""
    totals, main, counts = figures["totals"], main_figures(figures["totals"]), ["Pairs", "Key-points"]
    columns = [*(totals[i]["name"] for i in main), *counts]

    def group_rows(groups: Mapping[str, Sequence[Figure]]) -> list[list[Any]]:
        values = {name: [format_value(group[i], 1) for i in main] for name, group in groups.items()}
        return [
            [name, *values[name], *(groups[name][main[0]][n] for n in ("n_pairs", "n_points"))]
            for name in groups
        ]

    grades = [
        [label.removesuffix("_variation"), *row]
        for label, groups in figures.get("difficulty", {}).items()
        for row in group_rows(groups)
    ]
    sections = [
        Section("By category", ["Category", *columns], group_rows(figures["categories"]), True),
        Section("By difficulty", ["Label", "Grade", *columns], grades, True),
    ]
    if points := figures.get("points"):
        table = pd.DataFrame.from_dict(points["values"], orient="index").rename(
            columns={"n_points": "Key-points"}
        )
        rows = table_rows(table.reset_index(), 1)
        sections.append(Section("By point", ["Point", *table], rows, True, text=points["definition"]))
    if "kinds" in figures:
        kinds, errors = figures["kinds"], figures["errors"]
        table = pd.DataFrame.from_dict({"all": kinds["total"], **kinds["categories"]}, orient="index")
        text = f"{kinds['definition']}; α = {kinds['alpha']:g}."
        rows = table_rows(table.reset_index(), 1)
        sections.append(Section("Kinds of predictions", ["Category", *table], rows, True, text=text))
        table = pd.DataFrame({name: errors[name] for name in ("pixels", "thresholds")})
        table.index = [f"{100 * float(share):g} %" for share in table.index]
        rows = table_rows(table.reset_index(), 2)
        text = f"{errors['definition']}; {errors['n_points']} predictions."
        sections.append(Section("How far off", ["Share", "Pixels", "Thresholds"], rows, True, text=text))
    rows = []
    for figure in (*totals, *without_leaked(figures)):
        intervals = (format_interval(figure[k], figure["unit"]) for k in ("interval", "interval_by_image"))
        definition = (
            f"{figure['definition']}; {figure['basis']}" + " (the paper's definition)" * figure["paper"]
        )
        sizes = figure["n_pairs"], figure["n_points"]
        rows.append([figure["name"], format_value(figure), *intervals, *sizes, definition])
    header = ["Metric", "Value", "95 % by pairs", "95 % by images", *counts, "Definition"]
    sections.append(Section("Intervals and definitions", header, rows, True, text=figures["intervals"]))
    return sections


def reproduction(run: TestRun) -> Section:
    """What it takes to get the same figures again: the command, and hashes of what it read."""
    read = {name: run.results.get(name) for name in ("checkpoint", "predictions", "list")}
    files = {name: f"{file['file']}, SHA-256 {file['sha256']}" for name, file in read.items() if file}
    return Section("To reproduce", facts={"command": run.command, **files, **run.results["versions"]})


def without_leaked(figures: Mapping[str, Any]) -> list[Figure]:
    """The figures without pairs that are training pairs; none where that leaves out nothing."""
    others: list[Figure] = figures.get("without_leaked", [])
    same = all(a["n_pairs"] == b["n_pairs"] for a, b in zip(figures["totals"], others, strict=False))
    return [] if same else others


def resources(seconds: float, pairs: int, device: torch.device) -> dict[str, str]:
    """What a test of `pairs` pairs took, for its report; memory is the peak of this process."""
    used = {"time": f"{seconds:.1f} s, {pairs / max(seconds, 1e-9):.3g} pairs/s"}
    used["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return used | {name: f"{peak:.2f} GiB" for name, peak in peak_memory(device).items()}
