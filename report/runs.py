"""What a finished run leaves for people to look at: `report.html` and `pictures/` in its folder."""

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dhpf.common.files import replace_file
from dhpf.common.run import HISTORY, OPTIONS
from dhpf.data.benchmark import Benchmark
from dhpf.data.images import IMAGENET_MEAN, IMAGENET_STD
from dhpf.evaluation.score import averages, measure
from dhpf.report import pictures
from dhpf.report.page import DPI, Section, picture, write_report

REPORT, PICTURES = "report.html", "pictures"
CURVE = tuple(np.linspace(0.01, 0.2, 20).round(2).tolist())  # alphas of the curve


def report_test(
    folder: Path,
    model: str,
    benchmark: Benchmark,
    table: pd.DataFrame,
    results: Mapping[str, Any],
    options: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Writes the report of an evaluation, and as PNG and PDF its best, median and worst pairs and its layers.

    Args:
        folder: the run folder; model: what was evaluated, in words.
        benchmark: what it was evaluated on, whose images are shown.
        table: the merged table of predictions; results: what `results.save_results` made of it.
        options: all options of the run; facts: time and memory, in words.
    Raises:
        UserError: an image cannot be read any more, or a file cannot be written.
    """
    figures, alphas = results["figures"], results["options"]["alpha"]
    measures = measure(table, sorted({*alphas, *CURVE}), results["options"]["thres"])
    curves: dict[str, dict[float, Any]] = {}
    for f in averages(table, measures)(table.drop_duplicates("pair").n_pts >= 0):
        if "alpha" in f:
            curves.setdefault(f"mean over {f['average']}, {f['frame']}", {})[f["alpha"]] = f["value"]
    reported = [(what, values) for what, values in measures if what.get("alpha", alphas[0]) in alphas]
    definitions = [what for what, _ in reported]
    what, by_pair = reported[headline(definitions)[0]]
    by_pair = by_pair.groupby(level=0).mean()  # a metric may have one value a key-point
    by_point = next((reported[i][1] for i in headline(definitions, "key-points")), None)

    def shown(pair: int) -> dict[str, Any]:
        """The arguments of `pictures.matches`, in the frame."""
        rows = table[table.pair == pair]
        about, value = rows.iloc[0], by_pair[pair]
        source, predicted, target = (
            rows[[f"{name}_x", f"{name}_y"]].to_numpy().T for name in ("source", "predicted", "target")
        )
        number = f"{value:.1f} {what['unit']}" if what["unit"] else f"{value:.3f}"
        asked = np.isfinite(source[0])  # outlines of Caltech-101 differ in length
        return {
            "src_image": _photograph(benchmark, about.source),
            "trg_image": _photograph(benchmark, about.target),
            "src_kps": source[:, asked],
            "predicted": predicted[:, asked],
            "trg_kps": target[:, np.isfinite(target[0])],
            "correct": None if by_point is None else by_point.loc[[pair]].to_numpy() > 0,
            "title": f"pair {pair}, {about.category}: {what['name']} {number}",
        }

    groups = {
        name: [shown(p) for p in chosen] for name, chosen in pictures.extremes(by_pair).items() if chosen
    }
    drawn = {"matches": pictures.contact_sheet(groups)} if groups else {}
    if layers := figures.get("layer_selection"):
        drawn["layers"] = pictures.layer_selection(layers["categories"] | {"all pairs": layers["total"]})
    for name, figure in drawn.items():
        for form in ("png", "pdf"):
            content = pictures.render(figure, form, DPI)
            replace_file(folder / PICTURES / f"{name}.{form}", content)
    sections = [
        Section(text=model),
        *evaluation(figures, curves, drawn.get("layers"), groups),
        Section("Time and memory", facts=facts),
        Section("Options", facts=options),
        Section("Versions", facts=results["versions"]),
    ]
    what_is = "Predictions for" if "predictions" in results else "DHPF on"
    write_report(folder / REPORT, f"{what_is} {figures['about'][0]}", sections)


def headline(figures: Sequence[Mapping[str, Any]], average: str = "") -> list[int]:
    """Which of the figures stand for the run: those averaged and framed as the first; of PCK, at the alpha nearest 0.1.

    Args: average: another average than the first figure's.
    """
    alphas = [f["alpha"] for f in figures if "alpha" in f]
    alpha = min(alphas, key=lambda alpha: abs(alpha - 0.1), default=None)
    first = figures[0]
    chosen = {"average": average or first["average"], "frame": first["frame"], "alpha": alpha}
    chosen["corners"] = first.get("corners")
    return [i for i, f in enumerate(figures) if all(f.get(k) == v for k, v in chosen.items())]


def full(values: Sequence[float | None], unit: str) -> float:
    """The length of an axis for values of a unit: shares end at 1 or 100 %, others at the largest."""
    return {"%": 100.0, "": 1.0}.get(unit) or max((v for v in values if v), default=1.0)


def evaluation(
    figures: Mapping[str, Any],
    curves: Mapping[str, Mapping[float, float]],
    layers: Figure | None,
    pairs: Mapping[str, Sequence[dict[str, Any]]],
) -> list[Section]:
    """What was measured: totals with definitions, categories, PCK against alpha, difficulty, layers, pairs.

    Args:
        figures: as `evaluation.score.score` returns them; curves: as for `pictures.pck_curve`.
        layers: the heat map of the selected layers; pairs: by group (best, median, worst) the arguments of
        `pictures.matches` for each.
    """
    totals, categories = figures["totals"], figures["categories"]
    main, counts = headline(totals), ["Pairs", "Key-points"]
    columns = [*(totals[i]["name"] for i in main), *counts]

    def by_group(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[Any]]:
        return [[name, *(_value(f[i]) for i in main), *_counts(f[main[0]])] for name, f in groups.items()]

    tiles, charts, rows = [], [], []
    for i in main:
        name, unit = totals[i]["name"], totals[i]["unit"]
        values = {category: group[i]["value"] for category, group in categories.items()}
        bars = pictures.category_bars(
            values, f"{name} {unit and f'({unit})'}", full(list(values.values()), unit)
        )
        charts.append(picture(bars, "Bar chart", f"{name} of each category, mean over pairs, the best first"))
    for i, f in (*enumerate(totals), *enumerate(figures.get("without_leaked", ()))):
        if i in main:
            tiles.append((f["name"], _value(f), f"mean over pairs, {f['basis']}"))
        definition = f"{f['definition']}; {f['basis']}{' (the paper’s definition)' if f['paper'] else ''}"
        rows.append([f["name"], _value(f), *_counts(f), definition])
    if curves:
        drawn = pictures.pck_curve(curves)
        charts.append(picture(drawn, "Curves", "PCK against α, the share of the threshold"))
    graded = []
    for label, grades in figures.get("difficulty", {}).items():
        graded += [[label.removesuffix("_variation"), *row] for row in by_group(grades)]
    sections = [
        *(Section(text=line) for line in figures["about"]),
        Section(tiles=tiles),
        Section("Totals", ["Figure", "Value", *counts, "Definition"], rows),
        Section("By category and by α" if curves else "By category", pictures=charts),
        Section("", ["Category", *columns], by_group(categories), folded="Categories as a table"),
        Section("Difficulty", ["Label", "Grade", *columns], graded),
    ]
    if points := figures.get("points"):
        *names, _ = next(iter(points["values"].values()))
        rows = [
            [point, *(f"{row[name]:.2f} %" for name in names), row["n_points"]]
            for point, row in points["values"].items()
        ]
        sections.append(
            Section("By point", ["Point", *names, "Key-points"], rows, folded=points["definition"])
        )
    if layers:
        heat_map = picture(layers, "Heat map", figures["layer_selection"]["definition"])
        sections.append(Section("Selected layers", pictures=[heat_map]))
    for name, group in pairs.items():
        side = []
        for pair in group:
            drawn = pictures.matches(**pair | {"title": ""})
            side.append(picture(drawn, "Matches", pair["title"], "jpg"))
        sections.append(Section(f"Pairs: {name}", pictures=side))
    return sections


def report_training(folder: Path) -> None:
    """Writes the report of a training run from what its folder holds: curves over the epochs, options, versions.

    A run of no epochs gets none.
    """
    if not (folder / HISTORY).exists():
        return
    curves = pictures.training_curves(pd.read_csv(folder / HISTORY))
    options = json.loads((folder / OPTIONS).read_text())
    versions = options.pop("versions", {})
    caption = "Loss, PCK and selected layers over the epochs"
    sections = [
        Section("Training", pictures=[picture(curves, "Curves", caption)]),
        Section("Options", facts=options),
        Section("Versions", facts=versions),
    ]
    title = f"Training of DHPF on {options['benchmark']}, {options['supervision']} supervision"
    write_report(folder / REPORT, title, sections)


def resources(seconds: float, pairs: int, device: torch.device) -> dict[str, str]:
    """What an evaluation of `pairs` pairs took, for its report; memory is the peak of this process."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    used = {
        "time": f"{seconds:.1f} s, {pairs / max(seconds, 1e-9):.3g} pairs/s",
        "memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB",
        "device": device.type.upper(),
    }
    if device.type == "cuda":
        used |= {"device": torch.cuda.get_device_name(device)}
        used |= {"GPU memory": f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"}
    return used


def _photograph(benchmark: Benchmark, key: str) -> NDArray[np.uint8]:
    """An image of the benchmark in its frame, [img_side, img_side, 3]."""
    pixels = benchmark.image(key).numpy().transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)


def _value(figure: Mapping[str, Any]) -> str:
    """The value of a figure with its unit."""
    if figure["value"] is None:
        return "undefined"
    return f"{figure['value']:.2f} {figure['unit']}" if figure["unit"] else f"{figure['value']:.4f}"


def _counts(figure: Mapping[str, Any]) -> tuple[int, int]:
    return figure["n_pairs"], figure["n_points"]
