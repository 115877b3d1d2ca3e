"""What a finished run leaves for people to look at: `report.html` and `pictures/` in its folder."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dhpf.common.files import is_file, replace_file
from dhpf.common.processes import peak_memory
from dhpf.common.run import HISTORY, OPTIONS, RESOURCES, progress
from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.figures import averages, main_figures, measure
from dhpf.evaluation.intervals import written
from dhpf.evaluation.metrics import Measure
from dhpf.matching.matcher import Matcher
from dhpf.report import pictures, statistics
from dhpf.report.explorer import explorer
from dhpf.report.page import DPI, SHOWN, Section, picture, write_report

REPORT, PICTURES, EXPLORERS = "report.html", "pictures", "explorer"
EPOCHS = {  # what is told of each epoch of a training, and in words
    "epoch": "Epoch",
    "trn_loss": "Training loss",
    "trn_matching_loss": "of matching",
    "trn_selection_loss": "of selection",
    "val_loss": "Validation loss",
    "val_matching_loss": "of matching",
    "val_selection_loss": "of selection",
    "trn_pck": "Training PCK (%)",
    "val_pck": "Validation PCK (%)",
    "layers": "Layers selected",
    "seconds": "Time (s)",
    "memory": "Memory (GiB)",
    "GPU memory": "GPU memory (GiB)",
}
CURVE = tuple(np.linspace(0.01, 0.2, 20).round(2).tolist())  # alphas of the curve


def report_test(
    folder: Path,
    model: str,
    benchmark: Benchmark,
    table: pd.DataFrame,
    results: Mapping[str, Any],
    options: Mapping[str, Any],
    facts: Mapping[str, Any],
    matcher: Matcher | None = None,
    command: str = "",
) -> None:
    """Writes the report of an evaluation, as PNG and PDF its best, median and worst pairs and its layers, and a page to
    explore each pair that it draws.

    Args:
        folder: the run folder; model: what was evaluated, in words.
        benchmark: what it was evaluated on, whose images are shown.
        table: the merged table of predictions; results: what `results.save_results` made of it.
        options: all options of the run; facts: time and memory, in words.
        matcher: what predicted, if it can predict for other points; command: what draws the pair whose number is
        written behind it.
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
    what, by_pair = reported[main_figures(definitions)[0]]
    by_pair = by_pair.groupby(level=0).mean()  # a metric may have one value a key-point
    by_point = next((reported[i][1] for i in main_figures(definitions, "key-points")), None)

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
            "title": f"pair {pair}, {pictures.short(about.category)}: {what['name']} {number}",
        }

    chosen = pictures.extremes(by_pair)
    categories = table.drop_duplicates("pair").set_index("pair").category
    for category, values in by_pair.groupby(categories):
        of = pictures.extremes(values, 1)
        chosen[f"worst, median, best of {category}"] = [*of["worst"], *of["median"], *of["best"]]
    drawn_pairs = {pair: shown(pair) for pairs in chosen.values() for pair in pairs}
    groups = {name: [drawn_pairs[pair] for pair in pairs] for name, pairs in chosen.items() if pairs}
    pages = {}
    if matcher:
        with progress("pages to explore", len(drawn_pairs)) as advance:
            for pair, arguments in drawn_pairs.items():
                pages[pair] = f"{EXPLORERS}/{pair}.html"
                keys = [benchmark.pairs[pair].src_key, benchmark.pairs[pair].trg_key]
                ends = [matcher.encode(benchmark.pil_image(key)) for key in keys]
                files = [benchmark.root / key for key in keys]
                if all(map(is_file, files)):  # else it was drawn, and has its key alone
                    keys = [os.path.relpath(file, folder / EXPLORERS) for file in files]
                page = explorer(matcher, (ends[0], ends[1]), keys, arguments["title"], model)
                replace_file(folder / pages[pair], page)
                advance(1)
    sheet = {name: groups[name] for name in pictures.extremes(by_pair) if name in groups}
    drawn = {"matches": pictures.contact_sheet(sheet)} if sheet else {}
    if layers := figures.get("layer_selection"):
        drawn["layers"] = pictures.layer_selection(layers["categories"] | {"all pairs": layers["total"]})
    if curves:
        drawn["pck-curve"] = pictures.pck_curve(curves)
        content = pd.DataFrame(curves).rename_axis("alpha").to_csv(lineterminator="\n")
        replace_file(folder / PICTURES / "pck-curve.csv", content.encode())
    for name, figure in drawn.items():
        for form in ("png", "pdf"):
            content = pictures.render(figure, form, DPI)
            replace_file(folder / PICTURES / f"{name}.{form}", content)
    sections = [
        Section(text=model),
        *evaluation(
            figures,
            curves,
            drawn.get("layers"),
            groups,
            {drawn_pairs[pair]["title"]: page for pair, page in pages.items()},
        ),
        every_pair(table, reported, pages, command),
        statistics.intervals(figures),
        *statistics.hidden(figures),
        Section("Time and memory", facts=facts),
        Section("Options", facts=options),
        statistics.reproduction(results),
    ]
    what_is = "Predictions for" if "predictions" in results else "DHPF on"
    write_report(folder / REPORT, f"{what_is} {figures['about'][0]}", sections)


def full(values: Sequence[float | None], unit: str) -> float:
    """The length of an axis for values of a unit: shares end at 1 or 100 %, others at the largest."""
    return {"%": 100.0, "": 1.0}.get(unit) or max((v for v in values if v), default=1.0)


def evaluation(
    figures: Mapping[str, Any],
    curves: Mapping[str, Mapping[float, float]],
    layers: Figure | None,
    pairs: Mapping[str, Sequence[dict[str, Any]]],
    pages: Mapping[str, str] = MappingProxyType({}),
) -> list[Section]:
    """What was measured: totals with definitions, categories, PCK against alpha, difficulty, layers, pairs.

    Args:
        figures: as `evaluation.score.score` returns them; curves: as for `pictures.pck_curve`.
        layers: the heat map of the selected layers; pairs: by group (best, median, worst) the arguments of
        `pictures.matches` for each; pages: addresses of pages to explore them, by their titles.
    """
    totals, categories = figures["totals"], figures["categories"]
    main, counts = main_figures(totals), ["Pairs", "Key-points"]
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
            between = f"; 95 %: {written(f['interval'], f['unit'])}" if "interval" in f else ""
            tiles.append((f["name"], _value(f), f"mean over pairs, {f['basis']}{between}"))
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
    made: dict[str, dict[str, Any]] = {}  # a pair may be in two groups
    for pair in (pair for group in pairs.values() for pair in group):
        if (title := pair["title"]) not in made:
            drawn = pictures.matches(**pair | {"title": ""})
            made[title] = picture(drawn, "Matches", title, "jpg", pages.get(title, ""))
    for name, group in pairs.items():
        sections.append(
            Section(f"Pairs: {pictures.short(name, 60)}", pictures=[made[pair["title"]] for pair in group])
        )
    return sections


def every_pair(
    table: pd.DataFrame, measures: Sequence[Measure], pages: Mapping[int, str], command: str
) -> Section:
    """All pairs with their figures of the headline, the worst first, those without a figure last.

    Args: pages: addresses of pages to explore pairs; command: what draws the pair whose number is written behind it.
    """
    main = [measures[i] for i in main_figures([what for what, _ in measures])]
    pairs = table.drop_duplicates("pair").set_index("pair")[["category", "source", "target", "n_pts"]]
    values = pd.DataFrame({what["name"]: by.groupby(level=0).mean() for what, by in main})
    pairs = pairs.join(values).sort_values([*values], kind="stable")
    header = ["Pair", "Category", "Source", "Target", "Key-points", *values]
    return Section(
        "All pairs", header, _cells(pairs.reset_index()), listed=True, links=pages, command=command
    )


def report_training(folder: Path) -> None:
    """Writes the report of a training run from what its folder holds: headline, curves, epochs, layers, options.

    What a run of an earlier version did not record is left out; a run of no epochs gets no report.
    """
    if not (folder / HISTORY).exists():
        return
    history = pd.read_csv(folder / HISTORY)
    options = json.loads((folder / OPTIONS).read_text())
    versions = options.pop("versions", {})
    for split in ("trn", "val"):  # the loss has two parts
        if f"{split}_selection_loss" in history:
            history[f"{split}_matching_loss"] = history[f"{split}_loss"] - history[f"{split}_selection_loss"]
    layers = history.filter(regex="^selection/").rename(columns=lambda name: name.rpartition("/")[2])
    history["layers"] = layers.sum(axis=1)
    if (folder / RESOURCES).exists():
        history = history.merge(pd.read_csv(folder / RESOURCES), "left", "epoch")
    drawn = [
        picture(pictures.training_curves(history), "Curves", "Loss, PCK and selected layers over the epochs")
    ]
    if "trn_matching_loss" in history:
        drawn.append(picture(pictures.loss_parts(history), "Curves", "The parts of the loss over the epochs"))
    shown = {name: words for name, words in EPOCHS.items() if name in history}
    rates = layers.assign(epoch=history.epoch)[["epoch", *layers]]
    sections = [
        Section(tiles=_best_of(history, layers.shape[1])),
        Section("Training", pictures=drawn),
        Section("Epochs", list(shown.values()), _cells(history[list(shown)]), listed=len(history) > SHOWN),
        Section("", list(rates), _cells(rates), folded="How often each layer is selected, as a table"),
        Section("Options", facts=options),
        Section("Versions", facts=versions),
    ]
    title = f"Training of DHPF on {options['benchmark']}, {options['supervision']} supervision"
    write_report(folder / REPORT, title, sections)


def _best_of(history: pd.DataFrame, layers: int) -> list[tuple[str, str, str]]:
    """What matters most of a training, as a page's tiles."""
    last = history.iloc[-1]
    tiles = [
        (
            "Layers selected",
            f"{last.layers:.1f} of {layers}",
            f"mean over training pairs, epoch {last.epoch:g}",
        )
    ]
    if history.val_pck.notna().any():
        best = history.loc[history.val_pck.idxmax()]
        of = f"mean over validation pairs, epoch {best.epoch:g} of {len(history)}: the model that is kept"
        tiles.insert(0, ("Best validation PCK", f"{best.val_pck:.2f} %", of))
    if "seconds" in history:
        total = pd.Timedelta(seconds=round(history.seconds.sum()))
        tiles.append(("Time", str(total).removeprefix("0 days "), f"{history.seconds.mean():.1f} s an epoch"))
    for name in ("memory", "GPU memory"):
        if name in history:
            tiles.append(
                (
                    name.capitalize() if name == "memory" else name,
                    f"{history[name].max():.2f} GiB",
                    "the most of any epoch",
                )
            )
    return tiles


def _cells(table: pd.DataFrame) -> list[list[Any]]:
    """The rows of a table, numbers rounded; None stands for what is not defined."""
    return table.round(4).astype(object).where(table.notna(), None).to_numpy().tolist()


def resources(seconds: float, pairs: int, device: torch.device) -> dict[str, str]:
    """What an evaluation of `pairs` pairs took, for its report; memory is the peak of this process."""
    used = {"time": f"{seconds:.1f} s, {pairs / max(seconds, 1e-9):.3g} pairs/s"}
    used["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return used | {name: f"{peak:.2f} GiB" for name, peak in peak_memory(device).items()}


def _photograph(benchmark: Benchmark, key: str) -> NDArray[np.uint8]:
    """An image of the benchmark in its frame, [img_side, img_side, 3]."""
    return np.asarray(benchmark.pil_image(key).resize((benchmark.img_side,) * 2, Image.Resampling.BILINEAR))


def _value(figure: Mapping[str, Any]) -> str:
    """The value of a figure with its unit."""
    if figure["value"] is None:
        return "undefined"
    return f"{figure['value']:.2f} {figure['unit']}" if figure["unit"] else f"{figure['value']:.4f}"


def _counts(figure: Mapping[str, Any]) -> tuple[int, int]:
    return figure["n_pairs"], figure["n_points"]
