"""Pair lists: CSV files, read as publications and people write them."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from io import StringIO
from pathlib import Path
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

    Separated by commas, semicolons or tabs; blank lines, a last separator, numbers of rows and spaces do not matter.
    """
    yield from table_rows(path, read_text(path, MAX_LIST_BYTES), columns)


def table_rows(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of a table's text as `read_table` gives them; the path is for messages."""
    first_line = text.lstrip()[:10_000].partition("\n")[0]
    reader = csv.reader(StringIO(text, newline=""), delimiter=max(",;\t", key=first_line.count))
    rows = _filled_rows(path, reader)
    line, header = next(rows, (1, []))
    names = [cell.lower() for cell in header]
    with at_line(path, line):
        if missing := [column for column in columns if column.lower() not in names]:
            raise UserError(f"the list has no column {', '.join(missing)}")
    needed = max(names.index(column.lower()) for column in columns)
    for line, cells in rows:
        if len(cells) == len(names) + 1 and cells[-1]:
            del cells[0]  # the number of the row, in a column without a name
        if len(cells) <= needed:
            with at_line(path, line):
                raise UserError("the line has too few columns")
        yield line, dict(zip(names, cells, strict=False))


def _filled_rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV reader that are not blank, with their lines."""
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
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


def parse_numbers(text: str) -> Array:
    """The numbers of a list, separated by commas, semicolons or spaces, perhaps in brackets: [n]."""
    inner = text.strip(" \t[]()").removesuffix(",").removesuffix(";").strip()
    try:
        return np.array([float(value) for value in re.split(r"\s*[,;]\s*|\s+", inner)])
    except ValueError:
        raise UserError(f"{text[:40]!r} is not a list of numbers") from None


def parse_points(xs: str, ys: str) -> Array:
    """Points [2, n] from the lists of their coordinates."""
    x, y = parse_numbers(xs), parse_numbers(ys)
    if len(x) != len(y):
        raise UserError(f"{len(x)} x and {len(y)} y where points have one of each")
    return np.stack((x, y))
