"""Other methods than ours: predictions in files, and matchers that are called, brought into the table of predictions.

A file is CSV or JSON lines with a line for each key-point: `pair` (number in the benchmark's list, from 0) or `source`
and `target` (and `category`, where names alone are ambiguous), `point` (from 0, of those present in both images), `x`
and `y`; other columns are ignored. An empty cell, `nan` or `null` says that there is no prediction, as does a missing
line.
"""

import json
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from PIL import Image
from torch.utils.data import default_collate

from dhpf.common.errors import UserError, error_context
from dhpf.common.run import progress
from dhpf.data.benchmark import Benchmark
from dhpf.data.lists import table_rows
from dhpf.data.loading import load, skip_or_raise
from dhpf.evaluation.figures import averages, main_figures, measure, score
from dhpf.evaluation.metrics import Reals
from dhpf.evaluation.plausibility import plausibility_warning
from dhpf.evaluation.prediction_frames import IMAGE, checked_frame, to_image
from dhpf.evaluation.predictions import PairRows, column_names, pair_columns, read_unpacked, rows_of, table_of
from dhpf.evaluation.results import describe, format_value, save_results

COLUMNS = ["pair", "source", "target", "category", "point", "x", "y"]
MISSING = ("", "nan", "null")  # what stands for no prediction
MAX_COORDINATE = 1e30  # pixels; more does not fit the table's numbers
BATCH_SIZE = 64  # pairs whose annotations are read together
MAX_ENCODED = 256  # images whose encodings `evaluate` holds
Names = tuple[str, str, str]
MatchFunction = Callable[[Any, Any, Reals], ArrayLike]


def is_table(path: Path) -> bool:
    """Whether a file is a table of predictions of this program, not of another. Raises: UserError: unreadable."""
    return "predicted_x" in column_names(read_unpacked(path))


@dataclass(frozen=True)
class ExternalPredictions:
    """The predictions of a file: a row for each with pair, point, x and y (NaN: none), indexed by its line."""

    path: Path
    table: pd.DataFrame


def read_external(path: Path, benchmark: Benchmark) -> ExternalPredictions:
    """Predictions of a file for the pairs of a benchmark.

    Raises: UserError: unreadable; a pair that the benchmark has not, or that could be several; a point twice.
    """
    cells = read_cells(path)
    by_number, by_name = cells.pair != "", (cells.source != "") & (cells.target != "")
    table = cells[["pair", "point"]].apply(pd.to_numeric, errors="coerce")
    is_index = (table >= 0) & (table < 1e9) & (table % 1 == 0)
    for axis in ("x", "y"):
        table[axis] = cells[axis].map(parse_coordinate)
    refuse(path, cells, {
        "give pair, or source and target": ~by_number & ~by_name,
        "pair {pair!r} is no number from 0": by_number & ~is_index.pair,
        "point {point!r} is no number from 0": ~is_index.point,
        "x {x!r} is no finite number": table.x.abs() > MAX_COORDINATE,
        "y {y!r} is no finite number": table.y.abs() > MAX_COORDINATE,
        "one of x and y is missing": table.x.isna() != table.y.isna(),
    })  # fmt: skip
    names = [*zip(cells.source, cells.target, cells.category, strict=True)]
    found = find_pairs(set(names), benchmark) if by_name.any() else {}
    cells["found"] = [found.get(of_line, []) for of_line in names]
    count, size = cells.found.str.len(), len(benchmark)
    listed = np.array([pair in of_line for pair, of_line in zip(table.pair, cells.found, strict=True)])
    pairs, both = f"{benchmark.name} {benchmark.split}", "{source!r} and {target!r}"
    table["pair"] = table.pair.where(by_number, cells.found.str[0])
    cells["first"] = cells.index.to_series().groupby([table.pair, table.point]).transform("first")
    refuse(path, cells, {
        f"there is no pair {{pair}}: {pairs} has {size} here, from 0": by_number & (table.pair >= size),
        f"pair {{pair}} of {pairs} is not {both}": by_number & by_name & ~listed,
        f"{pairs} has no pair of {both}, category {{category!r}}": ~by_number & (count == 0),
        f"{both} are the pairs {{found}} of {pairs}: give the category, or the number as pair": (
            ~by_number & (count > 1)
        ),
        "line {first} has the same point": cells["first"] < cells.index,
    })  # fmt: skip
    return ExternalPredictions(path, table.astype({"pair": "int64", "point": "int64"}))


def read_cells(path: Path) -> pd.DataFrame:
    """The cells of a CSV file or of JSON lines as text, indexed by line; empty where there is none."""
    try:
        text = read_unpacked(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the file is not text, save it as UTF-8 ({error.reason})") from error
    is_json = text.lstrip().startswith("{")
    rows = dict(json_rows(path, text) if is_json else table_rows(path, text, ["point", "x", "y"]))
    if not rows:
        raise UserError(f"{path}: there is not one prediction in it")
    cells = pd.DataFrame(list(rows.values()), list(rows), COLUMNS, dtype=object)
    return cells.where(cells.notna(), "").apply(lambda column: column.map(str).str.strip())


def json_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of JSON lines with their lines, which `pandas.read_json` would not name."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = dict(json.loads(line))
            except (ValueError, TypeError, RecursionError):
                raise UserError(f"{path}, line {number}: it is not a JSON object, correct it") from None
            yield number, {name.strip().lower(): value for name, value in row.items()}


def parse_coordinate(text: str) -> float:
    """A coordinate; NaN: no prediction; infinite: it is no number."""
    try:
        return np.nan if text.lower() in MISSING else float(text)
    except ValueError:
        return np.inf


def refuse(path: Path, rows: pd.DataFrame, problems: Mapping[str, pd.Series]) -> None:
    """Raises a UserError about the first problem that a row has.

    Args: problems: messages, into which the row's cells are put, and which rows have them.
    """
    for message, wrong in problems.items():
        if wrong.any():
            line = wrong.idxmax()
            way_out = "correct it, or leave the line out: what is missing counts as wrong"
            with error_context(f"{path}, line {line}", way_out):
                raise UserError(message.format(**rows.loc[line]))


def path_parts(name: str) -> list[str]:
    """The parts of a path, upper and lower case alike, last first."""
    return [part for part in reversed(re.split(r"[/\\]", name.casefold())) if part not in ("", ".")] or [""]


def last_parts(path: Sequence[str]) -> set[str]:
    """The last part of a path, with and without its suffix."""
    return {path[0], path[0].rpartition(".")[0] or path[0]}


def common_parts(path: Sequence[str], known: Sequence[str]) -> int:
    """How many last parts of two paths are the same; the first one may lack its suffix."""
    same = [path[0] in last_parts(known), *(a == b for a, b in zip(path[1:], known[1:], strict=False))]
    return [*same, False].index(False)


def find_pairs(names: Iterable[Names], benchmark: Benchmark) -> dict[Names, list[int]]:
    """The pairs of a benchmark that names mean: those that agree with them in most of their last parts.

    A category is given as such, or by a folder of its name.
    Args: names: source, target and category, which may be empty. Returns: for each none, one or several pairs.
    """
    categories = [benchmark.categories[pair.category_id].casefold() for pair in benchmark.pairs]
    folders = set(categories)
    by_last: dict[tuple[str, ...], list[tuple[int, Any]]] = defaultdict(list)
    for i, pair in enumerate(benchmark.pairs):
        known = path_parts(pair.src_key), path_parts(pair.trg_key)
        for last in product(*map(last_parts, known)):
            by_last[last].append((i, known))
    found = {}
    for source, target, category in names:
        ends = path_parts(source), path_parts(target)
        in_folders = folders.intersection(parts[1] for parts in ends if len(parts) > 1)
        wanted = {category.casefold()} if category else in_folders
        agreement = {
            i: sum(map(common_parts, ends, known))
            for i, known in by_last[ends[0][0], ends[1][0]]
            if not wanted or wanted == {categories[i]}
        }
        most = max(agreement.values(), default=0)
        found[source, target, category] = [i for i, parts in agreement.items() if parts == most]
    return found


def external_rows(
    predictions: ExternalPredictions,
    benchmark: Benchmark,
    frame: str = IMAGE,
    workers: int = 0,
    on_bad_pair: str = "stop",
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[PairRows, list[str]]:
    """The rows of all pairs of a benchmark with predictions of a file, and what could not be read and why.

    Args:
        frame: what the points are in (see `prediction_frames`).
        advance: called with the number of pairs done since the last call.
    Raises: UserError: points that a pair has not; a pair cannot be read and may not be skipped.
    """
    table = predictions.table
    of_pair = table.groupby("pair").indices
    points, xy = table.point.to_numpy(), table[["x", "y"]].to_numpy()
    rows: PairRows = {}
    skipped: list[str] = []
    counts: dict[int, int] = {}
    pairs = range(len(benchmark))
    batches = [pairs[b : b + BATCH_SIZE] for b in range(0, len(pairs), BATCH_SIZE)]
    for batch, unread in load(benchmark.annotation, batches, min(workers, 1)):
        skipped += skip_or_raise(unread, on_bad_pair)
        if batch is None:
            continue
        predicted = []
        samples = [batch[name].tolist() for name in ("index", "n_pts", "trg_size")]
        for pair, n_pts, size in zip(*samples, strict=True):
            lines = of_pair.get(pair, np.empty(0, int))
            lines = lines[points[lines] < n_pts]
            given = np.full((n_pts, 2), np.nan)
            given[points[lines]] = xy[lines]
            predicted.append(in_frame(to_image(given, frame, size), benchmark, size))
            counts[pair] = n_pts
        rows |= rows_of(batch, predicted, benchmark)
        advance(len(predicted))
    table = table.assign(count=table.pair.map(counts))
    message = "there is no point {point:.0f}: pair {pair:.0f} has {count:.0f} points, from 0"
    refuse(predictions.path, table, {message: table.point >= table["count"]})
    return rows, skipped


def in_frame(points: Reals, benchmark: Benchmark, size: Any) -> Any:
    """Points [n, 2] of an image of this size (width, height) in the benchmark's frame: float32 [2, n]."""
    return np.ascontiguousarray((points * benchmark.img_side / np.asarray(size)).T, dtype=np.float32)


@runtime_checkable
class PairMatcher(Protocol):
    """What predicts all pairs of a benchmark by itself, as `Matcher` does."""

    def predict_pairs(self, benchmark: Benchmark, advance: Callable[[int], None]) -> PairRows: ...


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What `evaluate` found: the table of predictions, and all figures as `evaluation.figures.score` returns them."""

    table: pd.DataFrame
    figures: Mapping[str, Any]
    thres: str = "auto"

    @property
    def pck(self) -> float:
        """The main PCK, in percent. Raises: UserError: the benchmark has another metric."""
        return self._value(self.figures["totals"])

    def pck_at(self, alpha: float) -> float:
        """`pck` at any alpha."""
        every_pair = pair_columns(self.table).n_pts >= 0
        return self._value(averages(self.table, measure(self.table, [alpha], self.thres), [every_pair])[0])

    def _value(self, figures: Sequence[Mapping[str, Any]]) -> float:
        main = figures[main_figures(figures)[0]]
        if "alpha" not in main:
            raise UserError(
                f"{self.figures['benchmark']} is measured by {main['name']}, not by PCK: see `figures`"
            )
        return math.nan if main["value"] is None else main["value"]

    def summary(self) -> str:
        """The main figure with its intervals and definition, and the averages as a table."""
        return describe(self.figures)

    __str__ = summary

    def __repr__(self) -> str:
        main = self.figures["totals"][main_figures(self.figures["totals"])[0]]
        return f"<Evaluation: {self.figures['about'][0]}, {main['name']} {format_value(main)}>"


def evaluate(
    matcher: MatchFunction | PairMatcher,
    benchmark: Benchmark,
    *,
    encode: Callable[[Image.Image], Any] | None = None,
    alpha: tuple[float, ...] = (0.1,),
    thres: str = "auto",
    folder: str | Path | None = None,
    frame: str = IMAGE,
    measures: Sequence[str] = (),
) -> Evaluation:
    """Measures any matcher on a benchmark exactly as ours.

    Args:
        matcher: a `Matcher`; or called as `matcher(source_image, target_image, points)`: two PIL images in RGB as they
            are shown, and n×2 (x, y) in pixels of the source; returns n×2 in the target, NaN: no prediction.
        benchmark: as `data.open_benchmark` opens it.
        encode: what is to be done with an image alone; the matcher then gets its results instead of images.
        alpha, thres: of PCK.
        frame: what the matcher's points of the target are in: `image`, pixels of the target as it is stored, or another
            (see `prediction_frames`).
        measures: of `evaluation.MEASURES`, beside PCK.
        folder: for `results.json` and `predictions.csv.gz`, which `test.py --from-predictions` and `compare.py` read.
    Raises:
        UserError: a pair cannot be read; the matcher's answer is not n×2; there is no such frame. What the matcher
            raises passes through.
    """
    checked_frame(frame)
    if any(pair.flip for pair in benchmark.pairs):
        raise UserError(f"{benchmark.list_path}: mirrored pairs, open the benchmark with evaluation=True")
    if isinstance(matcher, PairMatcher) and (encode or frame != IMAGE):
        raise UserError("encode, frame: a Matcher knows what its predictions are in, leave them out")
    with progress("matching", len(benchmark)) as advance:
        if isinstance(matcher, PairMatcher):
            rows = matcher.predict_pairs(benchmark, advance)
        else:
            rows = called_rows(matcher, benchmark, encode, frame, advance)
    table = table_of(rows, list(benchmark.labels))
    if text := plausibility_warning(table, benchmark, frame):
        warnings.warn(text, stacklevel=2)
    if folder is None:
        return Evaluation(table, score(table, alpha, thres, measures), thres)
    options = {"benchmark": benchmark.name, "img_side": benchmark.img_side}
    figures = save_results(Path(folder), table, alpha, thres, options, others=measures)["figures"]
    return Evaluation(table, figures, thres)


def called_rows(
    matcher: MatchFunction,
    benchmark: Benchmark,
    encode: Callable[[Image.Image], Any] | None,
    frame: str,
    advance: Callable[[int], None],
) -> PairRows:
    """The rows of all pairs of a benchmark with what a matcher answers; arguments and errors as for `evaluate`."""

    @lru_cache(maxsize=MAX_ENCODED if encode else 2)
    def image(key: str) -> Any:
        picture = benchmark.pil_image(key)
        return encode(picture) if encode else picture

    rows: PairRows = {}
    for i, listed in enumerate(benchmark.pairs):
        with error_context(benchmark.where(i)):
            pair = benchmark.complete(listed)
            sample = benchmark.in_frame(i, pair)
            images = image(pair.src_key), image(pair.trg_key)
        n, points = sample["n_pts"], pair.src_kps.T.astype(np.float64)
        found = np.asarray(matcher(*images, points), dtype=np.float64) if n else np.empty((0, 2))
        if found.shape != (n, 2) or np.isinf(found).any():
            raise UserError(
                f"pair {i}: the matcher returned {list(found.shape)} for {n} points: return [{n}, 2], a finite x and y "
                "for each point, or NaN for both where there is no prediction"
            )
        size = sample["trg_size"]
        predicted = in_frame(to_image(found, frame, size), benchmark, size)
        rows |= rows_of(default_collate([sample]), [predicted], benchmark)
        advance(1)
    return rows
