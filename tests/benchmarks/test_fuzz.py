"""A twentieth of the damage of benchmarks/fuzz.py."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fuzz import KINDS, MIB, fuzz, peak, verdict
from dhpf.common.errors import UserError


@pytest.mark.parametrize("first", [0, 500])
def test_damaged_files_are_read_or_refused_in_a_sentence(tmp_path: Path, first: int) -> None:
    before = peak()
    counts: Counter[tuple[str, str]] = Counter()
    for number, kind, result in fuzz(tmp_path, range(first, first + 500)):
        assert result in ("read", "refused"), f"{kind}, --first {number} --count 1: {result}"
        counts[kind, result] += 1
    assert all(counts[kind, result] for kind in KINDS for result in ("read", "refused"))
    assert peak() - before < MIB


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, "read"),
        (UserError("list.csv, line 3: wrong: name another with --list"), "refused"),
        (UserError("other.csv, line 3: wrong: name another with --list"), "the file is not named"),
        (UserError("list.csv: wrong: name another with --list"), "no line or record"),
        (UserError("list.csv, line 3: wrong"), "no way out"),
        (ValueError("wrong"), "ValueError: wrong"),
    ],
)
def test_what_counts_as_refused(tmp_path: Path, error: Exception | None, expected: str) -> None:
    def read(_: Path) -> None:
        if error:
            raise error

    assert verdict(read, tmp_path, tmp_path / "list.csv", b"").startswith(expected)
