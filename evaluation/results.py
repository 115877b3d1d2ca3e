"""What an evaluation leaves behind: `results.json`, the table of predictions, and figures recomputed from it.

Both files follow from what was evaluated alone: not from batches, workers, processes, time or place.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dhpf.common.files import replace_file, sha256
from dhpf.common.run import PREDICTIONS, RESULTS, versions
from dhpf.evaluation.figures import main_figures, score
from dhpf.evaluation.intervals import KINDS, format_interval
from dhpf.evaluation.metrics import AVERAGES
from dhpf.evaluation.predictions import read_predictions, write_predictions


def save_results(
    folder: Path,
    table: pd.DataFrame,
    alphas: Sequence[float],
    thres: str,
    options: Mapping[str, Any],
    checkpoint: Path | None = None,
    predictions: Path | None = None,
    pair_list: Path | None = None,
    others: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the table of predictions and `results.json` into the folder; returns what the latter holds.

    Args: table: merged rows; options: those that decide the figures (no batch size, no workers, no paths);
    checkpoint or predictions: the file that they come from; pair_list: the file that lists the pairs; others: as for
    `figures.measure`.
    """
    results = {
        "options": dict(
            options, alpha=list(alphas), thres=thres, **({"measures": list(others)} if others else {})
        ),
        "versions": versions(),
        "checkpoint": _file(checkpoint),
        **({"predictions": _file(predictions)} if predictions else {}),
        **({"list": _file(pair_list)} if pair_list and pair_list.is_file() else {}),
        "figures": score(table, alphas, thres, others),
    }
    write_predictions(folder / PREDICTIONS, table)
    replace_file(folder / RESULTS, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    return results


def _file(path: Path | None) -> dict[str, str] | None:
    return {"file": path.name, "sha256": sha256(path)} if path else None


def rescore(
    path: Path, alphas: Sequence[float], thres: str = "auto", others: Sequence[str] = ()
) -> dict[str, Any]:
    """The figures (see `figures.score`) of a predictions file, without images and without a model."""
    return score(read_predictions(path), alphas, thres, others)


def describe(figures: Mapping[str, Any]) -> str:
    """The main figure with its intervals and its definition, the averages as a table, and notes, as lines."""
    totals, (pairs, *notes) = figures["totals"], figures["about"]
    lines = [pairs]
    for figure in [totals[i] for i in main_figures(totals)] if "alpha" in totals[0] else totals:
        intervals = (format_interval(figure[kind], figure["unit"]) for kind in KINDS)
        by_pairs, by_images = intervals
        lines.append(
            f"  {figure['name']} {format_value(figure)}  95 % interval {by_pairs} by pairs, {by_images} by images"
        )
        paper = " (the paper's definition)" if figure["paper"] else ""
        basis = figure["basis"].partition(" = ")[0]
        average = AVERAGES.get(figure["average"], figure["average"])
        lines.append(f"    mean over {average}, {basis}, {figure['frame']}{paper}")
    return "\n".join([*lines, *average_table(figures), *notes])


def average_table(figures: Mapping[str, Any]) -> list[str]:
    """PCK by threshold and average in the frame, then at the main threshold in original pixels and without the pairs
    that are training pairs, and the other measures that were asked for, as lines; nothing where there is no PCK."""
    every = pd.DataFrame([{"measure": None, **figure} for figure in figures["totals"]])
    if "alpha" not in every:
        return []
    main = every.loc[main_figures(figures["totals"])[0]]
    totals, averages = every[every.measure.isna()], list(every.average.unique())
    rows = {f"α = {alpha:g}": part for alpha, part in totals[totals.frame == main.frame].groupby("alpha")}
    others = totals[(totals.frame != main.frame) & (totals.alpha == main.alpha)]
    rows |= {f"α = {main.alpha:g}, {frame}": part for frame, part in others.groupby("frame")}
    if "without_leaked" in figures:
        left = pd.DataFrame(figures["without_leaked"])
        left = left[(left.frame == main.frame) & (left.alpha == main.alpha)][: len(averages)]
        if (left.n_pairs < totals.n_pairs.max()).any():
            rows[f"α = {main.alpha:g}, without training pairs ({left.n_pairs.max()} pairs)"] = left
    asked = every[every.measure.notna() & (every.frame == main.frame) & (every.alpha == main.alpha)]
    rows |= {str(name): part for name, part in asked.groupby("name", sort=False)}
    width = max(map(len, rows)) + 2
    lines = [f"  {'PCK in %, mean over':{width}}" + "".join(f"{average:>12}" for average in averages)]
    for name, part in rows.items():
        values = part.set_index("average").value.astype("float64").reindex(averages)
        lines.append(
            f"  {name:{width}}" + "".join(f"{value:12.2f}".replace("nan", " - ") for value in values)
        )
    return lines


def format_value(figure: Mapping[str, Any], decimals: int = 2) -> str:
    """The value with its unit. Args: decimals: of percent; a share, which has no unit, gets two more."""
    if figure["value"] is None:
        return "undefined"
    if figure["unit"]:
        return f"{figure['value']:.{decimals}f} {figure['unit']}"
    return f"{figure['value']:.{decimals + 2}f}"
