"""Other methods than ours: predictions in files, and matchers that are called, brought into the table of predictions.

A file is CSV or JSON lines with a line for each key-point: `pair` (number in the benchmark's list, from 0) or `source`
and `target` (and `category`, where names alone are ambiguous), `point` (from 0, of those present in both images), `x`
and `y`; what else it has is not read. An empty place, `nan` or `null` says that there is no prediction, as does a
missing line.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch.utils.data import default_collate

from dhpf.common.errors import UserError, error_context
from dhpf.common.run import progress
from dhpf.data.benchmark import Benchmark
from dhpf.data.lists import table_rows
from dhpf.data.loading import load, skip_or_raise
from dhpf.evaluation.figures import score
from dhpf.evaluation.predictions import PairRows, header_of, rows_of, table_of, unpacked
from dhpf.evaluation.results import describe, save_results

FRAMES = {"image": None, "240": 240}  # sides of the frames that predictions may be in; None: the stored image
BATCH = 64  # pairs read together
FARTHEST = 1e30  # pixels; more does not fit the table's numbers
CODES = 256  # images whose codes are kept
Reals = NDArray[np.float64]
MatchFunction = Callable[[Any, Any, Reals], ArrayLike]


def is_table(path: Path) -> bool:
    """Whether a file is a table of predictions of this program, not somebody else's. Raises: UserError: unreadable."""
    return "predicted_x" in header_of(unpacked(path))


@dataclass
class ExternalPredictions:
    """The predictions of a file, by pair.

    places: for each pair the place (x, y) of its points, NaN: none.  lines: where the file says so.
    """

    path: Path
    places: dict[int, dict[int, tuple[float, float]]] = field(default_factory=dict)
    lines: dict[int, dict[int, int]] = field(default_factory=dict)

    def of(self, pair: int, n_pts: int) -> Reals:
        """The places of a pair's points: n_pts×2. Raises: UserError: the file has others."""
        found = np.full((n_pts, 2), np.nan)
        for point, place in self.places.get(pair, {}).items():
            if point >= n_pts:
                with at_prediction(self.path, self.lines[pair][point]):
                    raise UserError(f"there is no point {point}: pair {pair} has {n_pts} points, from 0")
            found[point] = place
        return found


def read_external(path: Path, benchmark: Benchmark) -> ExternalPredictions:
    """Predictions of a file for the pairs of a benchmark.

    Raises: UserError: unreadable; a pair that the benchmark has not, or that could be several; a point twice.
    """
    try:
        text = unpacked(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the file is not text, save it as UTF-8 ({error.reason})") from error
    given, number_of = ExternalPredictions(path), PairNumbers(benchmark)
    rows = json_lines(path, text) if text.lstrip().startswith("{") else table_rows(path, text, ["point"])
    for line, row in rows:
        try:
            pair, point, place = number_of(row), parse_index(row, "point"), place_in(row)
            if point in given.places.get(pair, {}):
                raise UserError(
                    f"point {point} of pair {pair} has a prediction in line {given.lines[pair][point]}"
                )
        except UserError as error:
            with at_prediction(path, line):
                raise error from None
        given.places.setdefault(pair, {})[point] = place
        given.lines.setdefault(pair, {})[point] = line
    if not given.places:
        raise UserError(f"{path}: there is not one prediction in it")
    return given


def at_prediction(path: Path, line: int) -> Any:
    return error_context(
        f"{path}, line {line}", "correct it, or leave the line out: what is missing counts as wrong"
    )


def json_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of JSON lines with their lines."""
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                row = json.loads(content)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                with at_prediction(path, line):
                    raise UserError("not a JSON object")
            yield line, {str(name).strip().lower(): value for name, value in row.items()}


def parse_index(row: Mapping[str, Any], name: str) -> int:
    """A number from 0 of a row, perhaps written as 3.0."""
    text = cell_text(row, name)
    if len(text) < 10 and text.isascii() and text.isdecimal():
        return int(text)
    if not re.fullmatch(r"[0-9]{1,9}(\.0*)?", text):
        raise UserError(f"{name} {text[:40]!r} is no number from 0" if text else f"it says no {name}")
    return int(text.partition(".")[0])


def coordinate(row: Mapping[str, Any], name: str) -> float:
    """A coordinate of a row, NaN where there is none."""
    text = cell_text(row, name)
    if name not in row:
        raise UserError(f"it says no {name}")
    try:
        value = float(text or "nan")
    except ValueError:
        raise UserError(f"{name} {text[:40]!r} is no number") from None
    if abs(value) > FARTHEST:
        raise UserError(f"{name} {text[:40]} is infinite")
    return value


def place_in(row: Mapping[str, Any]) -> tuple[float, float]:
    """The place that a row says, NaN: none."""
    x, y = coordinate(row, "x"), coordinate(row, "y")
    if np.isnan(x) != np.isnan(y):
        raise UserError("one of x and y is missing")
    return x, y


def cell_text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value).strip()


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of a path, upper and lower case alike, last first."""
    return PurePosixPath(name.replace("\\", "/").casefold()).parts[::-1]


def agreement(given: tuple[str, ...], known: tuple[str, ...]) -> int:
    """How many last parts of two names are the same; of the last one the ending may be left out."""
    same = [given[0] in (known[0], PurePosixPath(known[0]).stem)]
    same += [a == b for a, b in zip(given[1:], known[1:], strict=False)]
    return (*same, False).index(False)


class PairNumbers:
    """The numbers of a benchmark's pairs by what a row of predictions calls them."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark
        self.named = lru_cache(maxsize=1024)(self._named)

    @cached_property
    def names(self) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """The parts of the two names of each pair."""
        return [(parts_of(pair.src_key), parts_of(pair.trg_key)) for pair in self.benchmark.pairs]

    @cached_property
    def categories(self) -> list[str]:
        return [self.benchmark.categories[pair.category_id].casefold() for pair in self.benchmark.pairs]

    @cached_property
    def by_last(self) -> dict[tuple[str, str], list[int]]:
        """The pairs by the last parts of their names, with and without ending."""
        found: dict[tuple[str, str], list[int]] = {}
        for i, (source, target) in enumerate(self.names):
            for s in {source[0], PurePosixPath(source[0]).stem}:
                for t in {target[0], PurePosixPath(target[0]).stem}:
                    found.setdefault((s, t), []).append(i)
        return found

    def __call__(self, row: Mapping[str, Any]) -> int:
        """Raises: UserError: there is no such pair, or more than one."""
        names = cell_text(row, "source"), cell_text(row, "target"), cell_text(row, "category")
        about = f"{self.benchmark.name} {self.benchmark.split}"
        if cell_text(row, "pair"):
            number = parse_index(row, "pair")
            if number >= len(self.benchmark):
                raise UserError(f"there is no pair {number}: {about} has {len(self.benchmark)} here, from 0")
            if all(names[:2]) and number not in self.named(*names):
                raise UserError(f"pair {number} of {about} is not {names[0][-80:]!r} and {names[1][-80:]!r}")
            return number
        if not all(names[:2]):
            raise UserError("it says neither pair nor source and target")
        found = self.named(*names)
        pair = " and ".join(repr(name[-80:]) for name in names[:2])
        if not found:
            category = f" in category {names[2][:80]!r}" if names[2] else ""
            raise UserError(f"{about} has no pair of {pair}{category}")
        if len(found) > 1:
            several = len({self.categories[i] for i in found}) == len(found)
            way = "say its category" if several else "say its number as pair"
            raise UserError(
                f"{pair} are {len(found)} pairs of {about}, such as {found[0]} and {found[1]}: {way}"
            )
        return found[0]

    def _named(self, source: str, target: str, category: str) -> list[int]:
        """The pairs whose names agree with these in most of their last parts, and in category."""
        ends = parts_of(source), parts_of(target)
        if not all(ends):
            return []
        found = self.by_last.get((ends[0][0], ends[1][0]), [])
        # A folder of a category's name says the category.
        folders = {end[1] for end in ends if len(end) > 1} & set(self.categories)
        known = {category.casefold()} if category else folders
        found = [i for i in found if not known or {self.categories[i]} == known]
        agreed = [sum(map(agreement, ends, self.names[i])) for i in found]
        return [i for i, parts in zip(found, agreed, strict=True) if parts == max(agreed)]


def external_rows(
    given: ExternalPredictions,
    benchmark: Benchmark,
    frame: str = "image",
    workers: int = 0,
    on_bad_pair: str = "stop",
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[PairRows, list[str]]:
    """The rows of all pairs of a benchmark with predictions of a file, and what could not be read and why.

    Args: frame: one of `FRAMES`; advance: called with the number of pairs done since the last call.
    Raises: UserError: points that a pair has not; a pair cannot be read and may not be skipped.
    """
    rows: PairRows = {}
    skipped: list[str] = []
    numbers = range(len(benchmark))
    batches = [numbers[b : b + BATCH] for b in range(0, len(benchmark), BATCH)]
    for batch, unread in load(benchmark.annotation, batches, min(workers, 1)):
        skipped += skip_or_raise(unread, on_bad_pair)
        if batch is not None:
            each = zip(
                batch["index"].tolist(), batch["n_pts"].tolist(), batch["trg_size"].numpy(), strict=True
            )
            scaled = [given.of(i, n) * benchmark.img_side / (FRAMES[frame] or size) for i, n, size in each]
            rows |= rows_of(batch, [in_table(xy) for xy in scaled], benchmark)
        advance(len(batch["index"]) if batch is not None else 0)
    return rows, skipped


def in_table(xy: Reals) -> Any:
    return np.ascontiguousarray(xy.T, dtype=np.float32)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: the table of predictions, and all figures, as `evaluation.score.score` returns them."""

    table: pd.DataFrame
    figures: Mapping[str, Any]

    def __str__(self) -> str:
        return describe(self.figures)


def evaluate(
    matcher: MatchFunction,
    benchmark: Benchmark,
    *,
    encode: Callable[[Image.Image], Any] | None = None,
    alpha: tuple[float, ...] = (0.1,),
    thres: str = "auto",
    folder: str | Path | None = None,
) -> Evaluation:
    """Measures any matcher on a benchmark exactly as ours.

    Args:
        matcher: called as `matcher(source_image, target_image, points)`: two PIL images in RGB as they are shown, and
            n×2 (x, y) in pixels of the source; returns n×2 in pixels of the target, NaN: no prediction.
        benchmark: as `data.open_benchmark` opens it, with `evaluation=True`.
        encode: what is to be done with an image alone; the matcher then gets its results instead of images.
        alpha, thres: of PCK.
        folder: for `results.json` and `predictions.csv.gz`, which `test.py --from-predictions` and `compare.py` read.
    Raises:
        UserError: a pair cannot be read; the matcher's answer is not n×2. What the matcher raises passes through.
    """

    def image(key: str) -> Any:
        picture = benchmark.pil_image(key)
        return encode(picture) if encode else picture

    kept = lru_cache(maxsize=CODES if encode else 2)(image)
    rows: PairRows = {}
    with progress("matching", len(benchmark)) as advance:
        for i, listed in enumerate(benchmark.pairs):
            with error_context(benchmark.where(i)):
                pair = benchmark.complete(listed)
                sample = benchmark.in_frame(i, pair)
                if pair.flip:
                    raise UserError("a mirrored pair: open the benchmark with evaluation=True")
                ends = kept(pair.src_key), kept(pair.trg_key)
            n, points = sample["n_pts"], pair.src_kps.T.astype(np.float64)
            found = np.asarray(matcher(*ends, points), dtype=np.float64) if n else np.empty((0, 2))
            if found.shape != (n, 2) or not np.isfinite(found[~np.isnan(found)]).all():
                raise UserError(
                    f"pair {i}: the matcher answered {list(found.shape)}, not {n} finite points (x, y)"
                )
            scaled = found * benchmark.img_side / sample["trg_size"].numpy()
            rows |= rows_of(default_collate([sample]), [in_table(scaled)], benchmark)
            advance(1)
    table = table_of(rows, list(benchmark.labels))
    if folder is None:
        return Evaluation(table, score(table, alpha, thres))
    about = {"benchmark": benchmark.name, "img_side": benchmark.img_side}
    return Evaluation(table, save_results(Path(folder), table, alpha, thres, about)["figures"])
