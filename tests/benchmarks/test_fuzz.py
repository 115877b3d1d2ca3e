"""A twentieth of the damage of benchmarks/fuzz.py, and the reader of MATLAB files against SciPy's."""

from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from benchmarks.fuzz import KINDS, MIB, fuzz, peak, verdict
from dhpf.common.errors import UserError
from dhpf.data.matlab import read_arrays
from tests.helpers.places import SHARED


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


def same(content: bytes) -> int:
    """How many arrays of a file are read as SciPy reads them."""
    expected = {name: value for name, value in loadmat(BytesIO(content)).items() if not name.startswith("__")}
    numeric = {name: value for name, value in expected.items() if value.dtype.kind in "biuf"}
    found = read_arrays(content)
    assert found.keys() == numeric.keys()
    for name, value in numeric.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float64))
    return len(numeric)


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_of_matlab_files_are_those_that_scipy_reads(packed: bool) -> None:
    kinds = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8")
    arrays = {f"of_{kind}": np.arange(6).astype(kind).reshape(2, 3) for kind in kinds}
    others = {
        "text": "word",
        "cell": np.array([1, "a"], object),
        "complex": np.ones(2, complex),
        "empty": np.ones((0, 2)),
    }
    file = BytesIO()
    savemat(file, arrays | others | {"x": np.array([[np.nan, -np.inf]])}, do_compression=packed)
    assert same(file.getvalue()) == 12


@pytest.mark.skipif(not SHARED.exists(), reason="no real MATLAB files")
def test_real_matlab_files_are_read_as_scipy_reads_them() -> None:
    paths = sorted((SHARED / "data").glob("PF-*/**/*.mat"))
    assert sum(same(path.read_bytes()) for path in paths[::10]) > len(paths[::10])
