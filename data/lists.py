"""Pair lists: CSV files of the publications."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path, PurePosixPath

import numpy as np

from dhpf.common.errors import UserError, naming
from dhpf.common.files import MIB, read_text
from dhpf.data.benchmark import Array, Pair

MAX_LIST_BYTES = 64 * MIB


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """Rows of a CSV file as (line, {column: value}); it must have `columns` and may have more."""
    reader = csv.DictReader(StringIO(read_text(path, MAX_LIST_BYTES), newline=""))
    try:
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}, line 1: the list has no column {', '.join(missing)}")
        for row in reader:
            if any(row[column] is None for column in columns):
                raise UserError(f"{path}, line {reader.line_num}: the line has too few columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not a line of a CSV file ({error})") from error


def read_pair_table(
    path: Path, columns: Sequence[str], to_pair: Callable[[int, Mapping[str, str]], Pair]
) -> list[Pair]:
    """The pairs of a CSV list; a UserError of `to_pair` names the line."""
    pairs = []
    for line, row in read_table(path, columns):
        with naming(f"{path}, line {line}"):
            pairs.append(to_pair(line, row))
    return pairs


def path_parts(name: str, count: int) -> tuple[str, ...]:
    """The last `count` parts of a relative path that a pair list gives.

    Lists of different publications prefix the path with different folders, hence the last parts.  A path that
    would leave the benchmark's folder is an error.
    """
    parts = PurePosixPath(name).parts
    if len(parts) < count or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
        raise UserError(f"'{name}' is not a path inside the benchmark's folder")
    return parts[-count:]


def numbers(text: str) -> Array:
    """The numbers of a comma-separated (older lists: semicolon-separated) list: [n]."""
    try:
        return np.array([float(value) for value in text.replace(";", ",").split(",")])
    except ValueError:
        raise UserError(f"{text[:40]!r} is not a list of numbers") from None
