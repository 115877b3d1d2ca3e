"""Pair lists: CSV files, read as publications and people write them."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dhpf.common.errors import UserError, error_context
from dhpf.common.files import MIB, read_text
from dhpf.data.benchmark import Array, Pair

MAX_LIST_BYTES = 64 * MIB


def at_line(path: Path, line: int) -> AbstractContextManager[None]:
    """Names the line of a list in which something is wrong, and the way out."""
    return error_context(f"{path}, line {line}", "correct it, or choose another list")


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Rows of a CSV file as (line, {column in lower case: value}); it must have `columns` and may have more.

    Separated by commas, semicolons or tabs; blank lines, a last separator and numbers of rows do not matter.
    """
    yield from table_rows(path, read_text(path, MAX_LIST_BYTES), columns)


def table_rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of a table's text as `read_table` gives them; the path is for messages."""
    start = text.lstrip()[:10_000].partition("\n")[0]
    rows = filled_rows(path, csv.reader(StringIO(text, newline=""), delimiter=max(",;\t", key=start.count)))
    line, header = next(rows, (1, []))
    names = [cell.strip().lower() for cell in header]
    with at_line(path, line):
        if missing := [column for column in columns if column.lower() not in names]:
            raise UserError(f"the list has no column {', '.join(missing)}")
    needed = max(names.index(column.lower()) for column in columns)
    for line, cells in rows:
        if len(cells) == len(names) + 1 and cells[-1].strip():
            del cells[0]  # the number of the row, in a column without a name
        if len(cells) <= needed:
            with at_line(path, line):
                raise UserError("the line has too few columns")
        yield line, dict(zip(names, cells, strict=False))


def filled_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV reader that are not blank, with their lines."""
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield reader.line_num, cells
    except csv.Error as error:
        with at_line(path, reader.line_num):
            raise UserError(f"not a line of a CSV file ({error})") from error


def read_pair_table(
    path: Path, columns: Sequence[str], to_pair: Callable[[int, Mapping[str, str]], Pair]
) -> list[Pair]:
    """The pairs of a CSV list; a UserError of `to_pair` names the line."""
    pairs = []
    for line, row in read_table(path, columns):
        with at_line(path, line):
            pairs.append(to_pair(line, row))
    return pairs


def path_parts(name: str, count: int) -> tuple[str, ...]:
    """The last `count` parts of a relative path that a pair list gives.

    Lists of different publications prefix the path with different folders, hence the last parts.  A path that
    would leave the benchmark's folder is an error.
    """
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if len(path.parts) < count or ".." in path.parts or path.is_absolute() or "\0" in name:
        raise UserError(f"'{name}' is not a path inside the benchmark's folder")
    return path.parts[-count:]


def numbers(text: str) -> Array:
    """The numbers of a list, separated by commas, semicolons or spaces, perhaps in brackets: [n]."""
    inner = text.strip(" \t[]()").removesuffix(",").removesuffix(";").strip()
    try:
        return np.array([float(value) for value in re.split(r"\s*[,;]\s*|\s+", inner)])
    except ValueError:
        raise UserError(f"{text[:40]!r} is not a list of numbers") from None


def points(xs: str, ys: str) -> Array:
    """Points [2, n] from the lists of their coordinates."""
    x, y = numbers(xs), numbers(ys)
    if len(x) != len(y):
        raise UserError(f"{len(x)} x and {len(y)} y where points have one of each")
    return np.stack((x, y))
