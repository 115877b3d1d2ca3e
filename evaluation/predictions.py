"""The table of predictions, from which every figure of every benchmark is computed.

It has one row per key-point; what belongs to the pair is repeated on its rows: `PAIR_COLUMNS`, the benchmark's own
labels (-1: unknown), `layer_sel`, then `POINT_COLUMNS`. A pair without key-points keeps one row, with `point` = -1: it
has no PCK, is left out of every mean and counted. `point_name`, which older tables lack, is the point's name or number
where the benchmark gives one. Coordinates are pixels of the img_side x img_side frame; NaN: no prediction. Columns of
`KNOWN_ONLY` come last, each only where a pair has it.
"""

import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dhpf.common.errors import UserError
from dhpf.common.files import replace_file
from dhpf.data import BENCHMARKS
from dhpf.data.benchmark import Benchmark

PAIR_COLUMNS: dict[str, str] = {
    "benchmark": "str", "split": "str", "img_side": "int64", "auto_thres": "str",
    "pair": "int64", "source": "str", "target": "str", "category": "str", "n_pts": "int64",
    "target_width": "int64", "target_height": "int64",  # of the stored image, in pixels
    "bbox_width": "float32", "bbox_height": "float32",  # of --thres bbox, in the frame; NaN: there is none
}  # fmt: skip
SELECTION = "layer_sel"  # the pair's selection of each layer, separated by spaces
ENDS = ("source_x", "source_y", "target_x", "target_y", "predicted_x", "predicted_y")
NAME = "point_name"
POINT_COLUMNS = {SELECTION: "str", "point": "int64", **dict.fromkeys(ENDS, "float32"), NAME: "str"}
KNOWN_ONLY: dict[str, Any] = {  # of the pair, and what stands for unknown
    "target_points": "",  # all visible points of the target image in the frame, JSON {name: [x, y]}
    "azimuth_difference": -1,  # 0 to 4 eighths of a turn
    "kap": "",  # scores of positives (1) and negatives (0), JSON {"bbox@0.1": [[1, 0.9], ...]}
}
MAX_SIDE = 4096  # pixels of the frame


class PairRow(NamedTuple):
    """The rows of one pair: its columns up to `layer_sel`, points [n, 6] in the order of `ENDS`, n names or none, and
    what is known of `KNOWN_ONLY`."""

    pair_values: tuple[Any, ...]
    points: NDArray[np.float32]
    point_names: list[str]
    known: dict[str, Any] = {}  # noqa: RUF012


PairRows = dict[int, PairRow]  # by number of the pair


def columns(labels: Sequence[str]) -> dict[str, str]:
    """The columns of a table and their types."""
    return PAIR_COLUMNS | dict.fromkeys(labels, "int64") | POINT_COLUMNS


def rows_of(
    batch: Mapping[str, Any],
    predicted: torch.Tensor | Sequence[torch.Tensor],
    benchmark: Benchmark,
    selection: torch.Tensor | None = None,
) -> PairRows:
    """The rows of the pairs of one batch, small: a benchmark's are held until `table_of` joins them.

    Args:
        batch: B collated samples of the benchmark.
        predicted: for each pair [2, >= n_pts] in the img_side frame, NaN: no prediction.
        selection: [B, K], which layers each pair selected.
    """
    rows: PairRows = {}
    sizes, extents = _array(batch["trg_size"]).tolist(), _array(batch["bbox_extent"]).tolist()
    source, target = _array(batch["src_kps"]), _array(batch["trg_kps"])
    selected = [""] * len(sizes)
    if selection is not None:
        selected = [" ".join(f"{value:.9g}" for value in of_pair) for of_pair in _array(selection)]
    for i, pair in enumerate(_array(batch["index"]).tolist()):
        # Outlines do not correspond: the target's length is its own.
        n_pts, n_target = int(batch["n_pts"][i]), int(batch["n_trg_pts"][i])
        points = np.full((max(n_pts, n_target), 6), np.nan, dtype=np.float32)
        points[:n_pts, :2], points[:n_target, 2:4] = source[i, :, :n_pts].T, target[i, :, :n_target].T
        points[:n_pts, 4:] = _array(predicted[i])[:, :n_pts].T
        values = (
            benchmark.name, benchmark.split, benchmark.img_side, benchmark.auto_thres, pair,
            batch["src_key"][i], batch["trg_key"][i], batch["category"][i], n_pts, *sizes[i], *extents[i],
            *(int(batch[label][i]) for label in benchmark.labels), selected[i],
        )  # fmt: skip
        names = batch["points"][i].split("\t") if batch["points"][i] else []
        known = {
            "target_points": batch["trg_visible"][i],
            "azimuth_difference": int(batch["azimuth_difference"][i]),
        }
        rows[pair] = PairRow(values, points, names, {k: v for k, v in known.items() if v != KNOWN_ONLY[k]})
    return rows


def table_of(rows: PairRows, labels: Sequence[str]) -> pd.DataFrame:
    """The table of all rows in the order of the pairs: the same for any batches and processes.

    Raises: UserError: there is not one.
    """
    if not rows:
        raise UserError("there is nothing to score: not one pair was evaluated")
    names = list(columns(labels))
    pairs, points, point_names, known = zip(*(rows[pair] for pair in sorted(rows)), strict=True)
    counts = np.array([len(of_pair) for of_pair in points])
    table = pd.DataFrame(list(pairs), columns=names[: names.index("point")])
    table = table.loc[table.index.repeat(np.maximum(counts, 1))].reset_index(drop=True)
    table["point"] = np.concatenate([np.arange(n) if n else [-1] for n in counts])
    table[list(ENDS)] = np.concatenate([xy if len(xy) else np.full((1, 6), np.nan) for xy in points])
    table[NAME] = [
        name
        for of_pair, n in zip(point_names, counts, strict=True)
        for name in [*of_pair, *[""] * max(n, 1)][: max(n, 1)]
    ]
    table = table.astype(columns(labels))
    for name, unknown in KNOWN_ONLY.items():
        if any(name in of_pair for of_pair in known):
            table[name] = np.repeat([of_pair.get(name, unknown) for of_pair in known], np.maximum(counts, 1))
    return table


def pair_columns(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each pair, indexed by its number; only what belongs to the pair means something."""
    return table.drop_duplicates("pair").set_index("pair")


def layer_selection(pairs: pd.DataFrame) -> pd.DataFrame | None:
    """The selection of each hyperpixel layer, a row for each pair; None where a pair has none."""
    if (pairs[SELECTION] == "").any():
        return None
    return pairs[SELECTION].str.split(" ", expand=True).astype("float64")


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """A table as gzipped CSV, from which `read_predictions` makes the same table to the last bit."""
    text = table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
    replace_file(path, gzip.compress(text.encode(errors="surrogateescape"), mtime=0))


def read_unpacked(path: Path) -> bytes:
    """What a file of predictions holds, gzipped or plain. Raises: UserError: it is missing or cut off."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            content = (gzip.GzipFile(fileobj=file) if packed else file).read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: the table of predictions cannot be read ({error})") from error
    return content


def column_names(content: bytes) -> list[str]:
    """The names of the columns of a table that is written as `write_predictions` does."""
    return content.partition(b"\n")[0].decode("utf-8-sig", "replace").removesuffix("\r").split(",")


def read_predictions(path: Path) -> pd.DataFrame:
    """The table of a predictions file, gzipped or plain CSV, checked.

    Raises: UserError: the file is missing, cut off, something else, or contradicts itself.
    """
    content = read_unpacked(path)
    names = column_names(content)
    labels = [name for name in names if name not in columns(()) and name not in KNOWN_ONLY]
    known = {
        name: "str" if unknown == "" else "int64" for name, unknown in KNOWN_ONLY.items() if name in names
    }
    types = columns(labels) | known
    if NAME not in names:
        del types[NAME]
    if names != list(types):
        missing = ", ".join(name for name in types if name not in names) or "none, but the order differs"
        raise UserError(
            f"{path}: not a table of predictions as test.py writes it (missing columns: {missing})"
        )
    empty = {name: [""] for name, dtype in types.items() if dtype == "float32"}
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite or negative
            table = pd.read_csv(
                io.BytesIO(content),
                dtype=types,
                keep_default_na=False,
                na_values=empty,
                encoding_errors="surrogateescape",
            )
        table = table.assign(**{NAME: ""}) if NAME not in table else table
        selection = layer_selection(pair_columns(table))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: the table of predictions is damaged ({error})") from error
    if table.empty:
        raise UserError(f"{path}: the table of predictions has no rows")
    for problem, rows in _problems(table, labels).items():
        if rows.any():
            raise UserError(f"{path}, line {int(rows.to_numpy().argmax()) + 2}: {problem}")
    if selection is not None and not ((selection >= 0) & (selection <= 1)).all(axis=None):
        raise UserError(f"{path}: {SELECTION} is not the selection of the same layers for every pair")
    return table


def _problems(table: pd.DataFrame, labels: Sequence[str]) -> dict[str, pd.Series]:
    """What would make figures wrong without a word, and in which rows it is."""
    count, point = table.groupby("pair").pair.transform("size"), table.groupby("pair").cumcount()
    no_points = (table.point == -1) & (table.n_pts == 0) & (count == 1)
    # Of outlines the target may have more points than the source.
    outlines = BENCHMARKS[table.benchmark[0]].metric == "outlines"
    exempt = no_points | outlines
    evaluation = table[list(PAIR_COLUMNS)[:4]]
    repeated = table.duplicated([*PAIR_COLUMNS, *labels, SELECTION])
    sizes = table[["img_side", "target_width", "target_height"]]
    floats = table.select_dtypes("float32")
    return {
        "another evaluation than the first line's": evaluation.ne(evaluation.iloc[0]).any(axis=1),
        "the lines are not in order": (table.pair.diff() < 0) | ((table.point != point) & ~no_points),
        "it contradicts its pair's first line": (point > 0) & ~repeated,
        "lines of the pair are missing": (count < table.n_pts) | ((count > table.n_pts) & ~exempt),
        "an impossible size": (sizes < 1).any(axis=1) | (table.img_side > MAX_SIDE) | (table.n_pts < 0),
        "a coordinate is missing": table[list(ENDS[:4])].isna().any(axis=1) & ~exempt,
        "an infinite coordinate, or a negative box": (
            np.isinf(floats).any(axis=1) | (floats[["bbox_width", "bbox_height"]] < 0).any(axis=1)
        ),
    }


def _array(values: Any) -> np.ndarray:
    """A NumPy array of a tensor on any device."""
    return torch.as_tensor(values).detach().cpu().numpy()
