"""What an evaluation leaves behind: `results.json`, the table of predictions, and figures recomputed from it.

Both files follow from what was evaluated alone: not from batches, workers, processes, time or place.
"""

import gzip
import hashlib
import io
import json
import platform
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from dhpf.common import __version__
from dhpf.common.errors import UserError
from dhpf.common.files import replace_file
from dhpf.evaluation.score import COLUMNS, PAIR_COLUMNS, score

RESULTS, PREDICTIONS = "results.json", "predictions.csv.gz"
MAX_BYTES = 256 * 2**20  # of an unpacked table: SPair-71k's whole test split takes a tenth of it
MAX_SIDE = 4096  # pixels of the frame
SHARE = r"(0|1|0\.\d+|\d(\.\d+)?e-\d+)"  # a number from 0 to 1 as '%.9g' writes it


def save_results(
    folder: Path,
    table: pd.DataFrame,
    alphas: Sequence[float],
    thres: str,
    options: Mapping[str, Any],
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Writes the table of predictions and `results.json` into the folder; returns what the latter holds.

    Args: table: merged rows; options: those that decide the figures (no batch size, no workers, no paths).
    """
    results = {
        "options": dict(options, alpha=list(alphas), thres=thres),
        "versions": versions(),
        "checkpoint": {"file": checkpoint.name, "sha256": sha256(checkpoint)} if checkpoint else None,
        "figures": score(table, alphas, thres),
    }
    write_predictions(folder / PREDICTIONS, table)
    replace_file(folder / RESULTS, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    return results


def rescore(path: Path, alphas: Sequence[float], thres: str = "auto") -> dict[str, Any]:
    """The figures (see `evaluation.score`) of a predictions file, without images and without a model."""
    return score(read_predictions(path), alphas, thres)


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """A merged table as gzipped CSV, from which `read_predictions` makes the same table to the last bit."""
    text = table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
    replace_file(path, gzip.compress(text.encode(), mtime=0))


def read_predictions(path: Path) -> pd.DataFrame:
    """The table of a predictions file, gzipped or plain CSV, checked.

    Raises: UserError: the file is missing, too large, cut off, something else, or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = (gzip.GzipFile(fileobj=file) if packed else file).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: the table of predictions cannot be read ({error})") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: no table of predictions is larger than {MAX_BYTES >> 20} MiB")

    header = content.partition(b"\n")[0].decode(errors="replace").removesuffix("\r").split(",")
    if header != list(COLUMNS):
        missing = ", ".join(name for name in COLUMNS if name not in header) or "none, but the order differs"
        raise UserError(
            f"{path}: not a table of predictions as test.py writes it (missing columns: {missing})"
        )
    empty = {name: [""] for name, dtype in COLUMNS.items() if dtype == "float32"}
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite or negative
            table = pd.read_csv(io.BytesIO(content), dtype=COLUMNS, keep_default_na=False, na_values=empty)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: the table of predictions is damaged ({error})") from error
    if table.empty:
        raise UserError(f"{path}: the table of predictions has no rows")
    for problem, rows in _problems(table):
        if rows.any():
            raise UserError(f"{path}, line {int(rows.to_numpy().argmax()) + 2}: {problem}")
    return table


def _problems(table: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """What a table of predictions cannot be, and in which rows it is."""
    about = table[list(COLUMNS)[:4]]
    rows = table.groupby("pair")["pair"].transform("size")
    position = table.groupby("pair").cumcount()
    outlines = table.benchmark == "caltech"  # where the target may have more points than the source
    empty = (table.point == -1) & (table.n_pts == 0) & (rows == 1)
    ends = table[["source_x", "source_y", "target_x", "target_y"]]
    positive = table[["img_side", "target_width", "target_height"]]
    layers = table.layer_sel.str.count(" ")
    whole = table.layer_sel.str.fullmatch(f"({SHARE}( {SHARE})*)?") & (layers == layers[0])
    return [
        ("another evaluation than the first line's", about.ne(about.iloc[0]).any(axis=1)),
        ("the pairs are not in order", table.pair.diff() < 0),
        ("contradicts its pair's first line", (position > 0) & ~table.duplicated(PAIR_COLUMNS)),
        ("a line is missing", (rows < table.n_pts) | ((rows > table.n_pts) & ~outlines & ~empty)),
        ("the points are not in order", (position != table.point) & ~empty),
        ("an impossible size", (positive < 1).any(axis=1) | (about.img_side > MAX_SIDE) | (table.n_pts < 0)),
        ("an impossible box", (table[["bbox_width", "bbox_height"]] < 0).any(axis=1)),
        ("a key-point without a place", ends.isna().any(axis=1) & ~outlines & ~empty),
        ("an infinite coordinate", np.isinf(table.select_dtypes("float32")).any(axis=1)),
        ("not a selection of as many layers as before", ~whole),
    ]


def describe(figures: Mapping[str, Any]) -> str:
    """The totals as text, a line each: name, value, definition and what it rests on."""
    lines = [f"{figures['benchmark']} {figures['split']}: {figures['n_pairs']} pairs"]
    if figures["n_pairs_without_keypoints"]:
        lines[0] += f", of which {figures['n_pairs_without_keypoints']} without key-points are in no figure"
    for figure in (*figures["totals"], *figures.get("without_leaked", ())):
        value = (
            "undefined" if figure["value"] is None else f"{figure['value']:.{2 if figure['unit'] else 4}f}"
        )
        average = figure["average"]
        number = figure["n_pairs" if average == "pairs" else "n_points"]
        paper = " (the paper's definition)" if figure["paper"] else ""
        lines.append(
            f"  {figure['name']:8} {value:>9} {figure['unit']:1}  mean over {number:>6} {average + ',':11} "
            f"{figure['basis']}{paper}"
        )
    return "\n".join(lines)


def versions() -> dict[str, str | None]:
    """What computed the figures: Python, torch, this program and its git commit (None outside a checkout)."""
    root = Path(__file__).parents[1]
    git = [
        "git",
        "--no-optional-locks",
        "--git-dir=.git",
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
        "--abbrev=40",
    ]
    try:
        commit = subprocess.run(git, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # of a class of its own, which state files must not hold
        "dhpf": __version__,
        "commit": commit,
    }


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
