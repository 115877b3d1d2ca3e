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
from dhpf.evaluation.metrics import Figure, Measure
from dhpf.evaluation.predictions import pair_columns
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
        *summary(run.title, figures),
        *charts(figures, png),
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
    encode = lru_cache(KEPT_IMAGES)(lambda key: matcher.encode(benchmark.pil_image(key)))
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
    if rates := varied_rates(figures):
        drawn["layers"] = pictures.layer_selection(rates)
    if len(curves):
        lines = {frame: values.to_dict() for frame, values in curves["pairs"].items()}
        drawn["pck-curve"] = pictures.pck_curve(lines)
        columns = [f"mean over {average}, {frame}" for average, frame in curves.columns]
        content = curves.set_axis(columns, axis=1).to_csv(lineterminator="\n")
        replace_file(folder / "pck-curve.csv", content.encode())
    png = {}
    for name, figure in drawn.items():
        png[name] = pictures.render(figure, "png", DPI)
        replace_file(folder / f"{name}.png", png[name])
        replace_file(folder / f"{name}.pdf", pictures.render(figure, "pdf", DPI))
    return png


def varied_rates(figures: Mapping[str, Any]) -> dict[str, list[float]]:
    """How often each category's pairs select each layer; nothing if that is the same for all, one colour everywhere."""
    if "layer_selection" not in figures:
        return {}
    rates = {**figures["layer_selection"]["categories"], "all pairs": figures["layer_selection"]["total"]}
    return rates if np.ptp(list(rates.values())) > 0 else {}


# Sections of the page


def summary(title: str, figures: Mapping[str, Any]) -> list[Section]:
    """What was measured, the main figures, and one table: names (of PCK with their α) × averages."""
    totals, main = figures["totals"], main_figures(figures["totals"])
    tiles = []
    for figure in chain(*([group[i] for i in main] for group in (totals, without_leaked(figures)) if group)):
        interval = (
            f"; 95 % interval {format_interval(figure['interval'], figure['unit'])}"
            if figure.get("interval")
            else ""
        )
        paper = ", the paper's definition" if figure["paper"] else ""
        note = f"mean over {figure['average']}, {figure['basis']}{paper}{interval}"
        tiles.append((figure["name"], value_text(figure), note))
    frame, alpha = totals[main[0]]["frame"], totals[main[0]].get("alpha")
    rows: dict[str, dict[str, str]] = {}
    for figure in sorted(totals, key=lambda figure: figure["frame"] != frame):
        if figure["frame"] == frame:
            rows.setdefault(figure["name"], {})[figure["average"]] = value_text(figure)
        elif figure.get("alpha") == alpha:
            rows.setdefault(f"{figure['name']}, {figure['frame']}", {})[figure["average"]] = value_text(
                figure
            )
    averages = list(dict.fromkeys(figure["average"] for figure in totals))
    cells = [[name, *(values.get(average, "") for average in averages)] for name, values in rows.items()]
    return [
        Section(text=title),
        *(Section(text=line) for line in figures["about"][1:]),  # the first is in the page's title
        Section(tiles=tiles),
        Section(
            f"{frame[0].upper()}{frame[1:]}",
            ["Figure", *(f"mean over {average}" for average in averages)],
            cells,
        ),
    ]


def charts(figures: Mapping[str, Any], png: Mapping[str, bytes]) -> list[Section]:
    """The main figures by category, PCK by α, and the selected layers."""
    totals, categories, shown = figures["totals"], figures["categories"], []
    for i in main_figures(totals) if len(categories) > 1 else ():
        name, unit = totals[i]["name"], totals[i]["unit"]
        values = {category: group[i]["value"] for category, group in categories.items()}
        longest = {"%": 100.0, "": 1.0}.get(unit) or max((v for v in values.values() if v), default=1.0)
        bars = pictures.category_bars(values, f"{name} {unit and f'({unit})'}", longest)
        caption = f"{name} of each category, mean over pairs, the best first"
        shown.append(Picture.of_figure(bars, "Bar chart", caption))
    if "pck-curve" in png:
        caption = "PCK against α, the share of the threshold; mean over pairs"
        shown.append(Picture.of_png(png["pck-curve"], "Curves", caption))
    sections = [Section("By category and by α" if "pck-curve" in png else "By category", pictures=shown)]
    if "layers" in png:
        caption = figures["layer_selection"]["definition"]
        layers = Picture.of_png(png["layers"], "Heat map", caption)
        sections.append(Section("Selected layers", pictures=[layers]))
    elif "layer_selection" in figures:
        rates = figures["layer_selection"]["total"]
        sections.append(
            Section(
                "Selected layers", text=f"Each of the {len(rates)} layers: by {rates[0]:.0%} of the pairs."
            )
        )
    return sections


def details(figures: Mapping[str, Any]) -> list[Section]:
    """All else that was measured: definitions and intervals, groups, points, kinds and sizes of errors."""
    totals, main, counts = figures["totals"], main_figures(figures["totals"]), ["Pairs", "Key-points"]
    columns = [*(totals[i]["name"] for i in main), *counts]

    def group_rows(groups: Mapping[str, Sequence[Figure]]) -> list[list[Any]]:
        return [
            [name, *(value_text(group[i]) for i in main), *count(group[main[0]])]
            for name, group in groups.items()
        ]

    rows = []
    for figure in (*totals, *without_leaked(figures)):
        kinds = (
            format_interval(figure.get(kind), figure["unit"]) for kind in ("interval", "interval_by_image")
        )
        definition = (
            f"{figure['definition']}; {figure['basis']}" + " (the paper's definition)" * figure["paper"]
        )
        rows.append([figure["name"], value_text(figure), *kinds, *count(figure), definition])
    header = ["Figure", "Value", "95 % by pairs", "95 % by images", *counts, "Definition"]
    grades = [
        [label.removesuffix("_variation"), *row]
        for label, groups in figures.get("difficulty", {}).items()
        for row in group_rows(groups)
    ]
    sections = [
        Section("All figures, with intervals and definitions", header, rows, True, text=figures["intervals"]),
        Section("Categories", ["Category", *columns], group_rows(figures["categories"]), True),
        Section("Difficulty", ["Label", "Grade", *columns], grades, True),
    ]
    if points := figures.get("points"):
        *names, _ = next(iter(points["values"].values()))
        rows = [
            [point, *(f"{row[n]:.2f} %" for n in names), row["n_points"]]
            for point, row in points["values"].items()
        ]
        sections.append(
            Section("Points", ["Point", *names, "Key-points"], rows, True, text=points["definition"])
        )
    if "kinds" in figures:
        sections += error_sections(figures["kinds"], figures["errors"])
    return sections


def error_sections(kinds: Mapping[str, Any], errors: Mapping[str, Any]) -> list[Section]:
    """The kinds of predictions, of all and by category, and how far off predictions are."""
    shares = {"all": kinds["total"], **kinds["categories"]}
    rows = [[name, *(f"{share:.1f} %" for share in by_kind.values())] for name, by_kind in shares.items()]
    distances = [
        [f"{100 * float(q):g} %", f"{errors['pixels'][q]:.2f}", f"{errors['thresholds'][q]:.4f}"]
        for q in errors["pixels"]
    ]
    kinds_text = f"{kinds['definition']}; α = {kinds['alpha']:g}."
    distances_text = f"{errors['definition']}; {errors['n_points']} predictions."
    return [
        Section("Kinds of predictions", ["Category", *kinds["total"]], rows, True, text=kinds_text),
        Section("How far off", ["Share", "Pixels", "Thresholds"], distances, True, text=distances_text),
    ]


def reproduction(run: TestRun) -> Section:
    """What it takes to get the same figures again: the command, and hashes of what it read."""
    read = {
        name: run.results[name] for name in ("checkpoint", "predictions", "list") if run.results.get(name)
    }
    files = {name: f"{file['file']}, SHA-256 {file['sha256']}" for name, file in read.items()}
    command = {"command": run.command} if run.command else {}
    return Section("To reproduce", facts={**command, **files, **run.results["versions"]})


def without_leaked(figures: Mapping[str, Any]) -> list[Figure]:
    """The figures without pairs that are training pairs; none where that leaves out nothing."""
    others: list[Figure] = figures.get("without_leaked", [])
    same = all(a["n_pairs"] == b["n_pairs"] for a, b in zip(figures["totals"], others, strict=False))
    return [] if same else others


def value_text(figure: Figure) -> str:
    """The value of a figure with its unit."""
    if figure["value"] is None:
        return "undefined"
    return f"{figure['value']:.2f} {figure['unit']}" if figure["unit"] else f"{figure['value']:.4f}"


def count(figure: Figure) -> tuple[int, int]:
    return figure["n_pairs"], figure["n_points"]


def resources(seconds: float, pairs: int, device: torch.device) -> dict[str, str]:
    """What a test of `pairs` pairs took, for its report; memory is the peak of this process."""
    used = {"time": f"{seconds:.1f} s, {pairs / max(seconds, 1e-9):.3g} pairs/s"}
    used["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return used | {name: f"{peak:.2f} GiB" for name, peak in peak_memory(device).items()}
