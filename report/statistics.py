"""What the report says beside the figures: how far off they may be by chance, and what they hide."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dhpf.evaluation.intervals import format_interval
from dhpf.report.page import Section


def intervals(figures: Mapping[str, Any]) -> Section:
    """The intervals of all totals."""
    rows = []
    for figure in (*figures["totals"], *figures.get("without_leaked", ())):
        kinds = (format_interval(figure[kind], figure["unit"]) for kind in ("interval", "interval_by_image"))
        rows.append([figure["name"], *kinds, f"mean over {figure['average']}, {figure['basis']}"])
    header = ["Figure", "resampling pairs", "resampling images", "of"]
    return Section("How certain", header, rows, text=figures["intervals"])


def hidden(figures: Mapping[str, Any]) -> list[Section]:
    """The kinds of predictions, of all and by category, and how far off predictions are."""
    if "kinds" not in figures:
        return []
    kinds, errors = figures["kinds"], figures["errors"]
    shares = {"all": kinds["total"], **kinds["categories"]}
    rows = [[name, *(f"{share:.1f} %" for share in by_kind.values())] for name, by_kind in shares.items()]
    distances = [
        [f"{float(q):.0%}".replace("%", " %"), f"{errors['pixels'][q]:.2f}", f"{errors['thresholds'][q]:.4f}"]
        for q in errors["pixels"]
    ]
    text = f"{kinds['definition']}; α = {kinds['alpha']:g}."
    counted = f"{errors['definition']}; {errors['n_points']} predictions."
    return [
        Section("Kinds of predictions", ["Category", *kinds["total"]], rows, text=text),
        Section("How far off", ["Share", "pixels", "thresholds"], distances, text=counted),
    ]


def reproduction(results: Mapping[str, Any]) -> Section:
    """What it takes to get the same figures again: the command, and hashes of what it read."""
    files = {
        name: f"{results[name]['file']}, SHA-256 {results[name]['sha256']}"
        for name in ("checkpoint", "predictions", "list")
        if results.get(name)
    }
    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    return Section("To reproduce", facts={"command": command, **files, **results["versions"]})
