"""What an evaluation leaves behind: `results.json`, the table of predictions, and figures recomputed from it.

Both files follow from what was evaluated alone: not from batches, workers, processes, time or place.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dhpf.common.files import PREDICTIONS, replace_file, sha256
from dhpf.common.run import versions
from dhpf.evaluation.figures import score
from dhpf.evaluation.intervals import LEVEL, RESAMPLES, format_interval
from dhpf.evaluation.predictions import read_predictions, write_predictions

RESULTS = "results.json"


def save_results(
    folder: Path,
    table: pd.DataFrame,
    alphas: Sequence[float],
    thres: str,
    options: Mapping[str, Any],
    checkpoint: Path | None = None,
    predictions: Path | None = None,
    pair_list: Path | None = None,
) -> dict[str, Any]:
    """Writes the table of predictions and `results.json` into the folder; returns what the latter holds.

    Args: table: merged rows; options: those that decide the figures (no batch size, no workers, no paths);
    checkpoint or predictions: the file that they come from; pair_list: the file that lists the pairs.
    """
    results = {
        "options": dict(options, alpha=list(alphas), thres=thres),
        "versions": versions(),
        "checkpoint": _file(checkpoint),
        **({"predictions": _file(predictions)} if predictions else {}),
        **({"list": _file(pair_list)} if pair_list and pair_list.is_file() else {}),
        "figures": score(table, alphas, thres),
    }
    write_predictions(folder / PREDICTIONS, table)
    replace_file(folder / RESULTS, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    return results


def _file(path: Path | None) -> dict[str, str] | None:
    return {"file": path.name, "sha256": sha256(path)} if path else None


def rescore(path: Path, alphas: Sequence[float], thres: str = "auto") -> dict[str, Any]:
    """The figures (see `figures.score`) of a predictions file, without images and without a model."""
    return score(read_predictions(path), alphas, thres)


def describe(figures: Mapping[str, Any]) -> str:
    """The totals as text, a line each: name, value, definition and what it rests on; then as a matrix."""
    lines = list(figures["about"])
    for figure in (*figures["totals"], *figures.get("without_leaked", ())):
        value = (
            "undefined" if figure["value"] is None else f"{figure['value']:.{2 if figure['unit'] else 4}f}"
        )
        average = figure["average"]
        number = figure["n_points" if average == "key-points" else f"n_{average}"]
        paper = " (the paper's definition)" if figure["paper"] else ""
        between = format_interval(figure["interval"], figure["unit"])
        lines.append(
            f"  {figure['name']:8} {value:>9} {figure['unit']:1} {between:16}  mean over {number:>6} "
            f"{average + ',':11} {figure['basis']}{paper}"
        )
    first = figures["totals"][0]
    lines.append(
        f"  in brackets: {LEVEL * 100:g} % intervals, of {RESAMPLES} resamples of the pairs; of resamples of the "
        f"images, which pairs share, the first figure's is {format_interval(first['interval_by_image'], first['unit'])}"
    )
    return "\n".join(lines + matrix(figures["totals"]))


def matrix(totals: Sequence[Mapping[str, Any]]) -> list[str]:
    """The totals that have a threshold, thresholds × averages, for each frame, as lines."""
    lines = []
    known = pd.DataFrame([figure for figure in totals if "alpha" in figure])
    for frame, values in known.groupby("frame", sort=False) if len(known) else ():
        table = values.pivot(index="alpha", columns="average", values="value")[values.average.unique()]
        rows = [f"  {f'PCK in %, {frame}':30}" + "".join(f"{average:>12}" for average in table.columns)]
        for alpha, row in table.astype("float64").iterrows():
            rows.append(f"  {f'  α = {alpha:g}':30}" + "".join(f"{value:12.2f}" for value in row))
        lines += [row.replace("nan", " - ") for row in rows]
    return lines
