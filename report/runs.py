"""What a finished run leaves for people to look at: `report.html` and `pictures/` in its folder."""

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dhpf.common.files import replace_file
from dhpf.common.run import HISTORY, OPTIONS
from dhpf.data.benchmark import Benchmark
from dhpf.data.images import IMAGENET_MEAN, IMAGENET_STD
from dhpf.evaluation.score import averages, measure
from dhpf.report import page as report
from dhpf.report import pictures

REPORT, PICTURES = "report.html", "pictures"
CURVE = tuple(np.linspace(0.01, 0.2, 20).round(2).tolist())  # alphas of the curve
DPI = 160  # of photographs: more costs seconds, and shows no more of images of 240 pixels


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
    curve = averages(table, measures)(table.drop_duplicates("pair").n_pts >= 0)
    # Pairs are chosen by the first figure: PCK at the first alpha in the frame, LT-ACC on Caltech-101.
    first = [(what, values) for what, values in measures if what.get("alpha", alphas[0]) == alphas[0]]
    what, by_pair = first[0]
    by_point = next((values for what, values in first if what["average"] == "key-points"), None)

    def shown(pair: int) -> dict[str, Any]:
        """The arguments of `pictures.matches`, in the frame."""
        rows = table[table.pair == pair]
        about, value = rows.iloc[0], by_pair[pair]
        source, predicted, target = (
            rows[[f"{name}_x", f"{name}_y"]].to_numpy().T for name in ("source", "predicted", "target")
        )
        number = f"{value:.1f} %" if what["unit"] else f"{value:.3f}"
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
    pairs = {
        name: [(str(pair["title"]), pictures.matches(**pair | {"title": ""})) for pair in group]
        for name, group in groups.items()
    }
    drawn = {"matches": pictures.contact_sheet(groups)} if groups else {}
    if selection := figures.get("layer_selection"):
        drawn["layers"] = pictures.layer_selection(
            selection["categories"] | {"all pairs": selection["total"]}
        )
    for name, figure in drawn.items():
        for form in ("png", "pdf"):
            content = pictures.render(figure, form, DPI)
            replace_file(folder / PICTURES / f"{name}.{form}", content)
    sections = [
        report.paragraph(model),
        report.evaluation(figures, curve, pairs),
        report.facts("Time and memory", facts),
        report.facts("Options", {k: v for k, v in options.items() if k != "versions"}),
        report.facts("Versions", results["versions"]),
    ]
    report.write_report(folder / REPORT, f"DHPF on {benchmark.name}, {benchmark.split}", sections)


def report_training(folder: Path) -> None:
    """Writes the report of a training run from what its folder holds: curves over the epochs, options, versions.

    A run of no epochs gets none.
    """
    if not (folder / HISTORY).exists():
        return
    history = pd.read_csv(folder / HISTORY)
    options = json.loads((folder / OPTIONS).read_text())
    versions = options.pop("versions", {})
    sections = [
        report.training(history, history.filter(regex="^selection/").to_numpy()),
        report.facts("Options", options),
        report.facts("Versions", versions),
    ]
    title = f"Training of DHPF on {options['benchmark']}, {options['supervision']} supervision"
    report.write_report(folder / REPORT, title, sections)


def resources(seconds: float, pairs: int, device: torch.device) -> dict[str, str]:
    """What an evaluation of `pairs` pairs took, for its report; memory is the peak of this process."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    used = {
        "time": f"{seconds:.1f} s, {pairs / max(seconds, 1e-9):.3g} pairs/s",
        "memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB",
        "device": "CPU",
    }
    if device.type == "cuda":
        used |= {"device": torch.cuda.get_device_name(device)}
        used |= {"GPU memory": f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"}
    return used


def _photograph(benchmark: Benchmark, key: str) -> NDArray[np.uint8]:
    """An image of the benchmark in its frame, [img_side, img_side, 3]."""
    pixels = benchmark.image(key).numpy().transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
    return (pixels * 255).round().clip(0, 255).astype(np.uint8)
