"""Bad data give one sentence that names the file, or list and line; never a crash or a skip."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dhpf.common.errors import UserError
from dhpf.data.verify import verify
from tests.helpers.tiny import BENCHMARKS

PAIRS = 2
WILLOW = "PF-WILLOW/test_pairs.csv"
PASCAL = "PF-PASCAL/test_pairs.csv"
TRAINING = "PF-PASCAL/trn_pairs.csv"
CALTECH = "Caltech-101/test_pairs_caltech_with_category.csv"
SPAIR = "SPair-71k/Layout/large/test.txt"
JSON = "SPair-71k/PairAnnotation/test/000000-*.json"
MATS = "PF-PASCAL/Annotations/cat/*.mat"
CLASSES = {cls.folder: cls for cls in BENCHMARKS.values()}


def assert_named(datapath: Path, path: str, index: int, names: str) -> None:
    """Sample `index` of the split that a damaged file belongs to, and `verify`, name what is wrong in one line."""
    benchmark = CLASSES[path.split("/")[0]]
    with pytest.raises(UserError, match=names) as error:
        benchmark(datapath, "trn" if path == TRAINING else "test")[index]
    assert "\n" not in str(error.value)
    assert any(re.search(names, problem) for problem in verify(benchmark, datapath).problems)


@pytest.mark.parametrize(
    ("path", "pattern", "replacement", "line"),
    [
        pytest.param(PASCAL, "class", "klass", 1, id="missing column"),
        pytest.param(CALTECH, r"(?s).*", "", 1, id="empty file"),
        pytest.param(WILLOW, r"(?s)(.*),[^,]*\n", r"\1\n", 3, id="short line"),
        pytest.param(CALTECH, r"\Z", '"' + "1," * 70_000, 4, id="unclosed quote"),
        pytest.param(SPAIR, "000001-", "000001_", 2, id="layout line"),
        pytest.param(SPAIR, ":dog", ":unicorn", 2, id="category of spair"),
        pytest.param(PASCAL, ",8,0", ",0,0", 2, id="class 0"),
        pytest.param(CALTECH, ",71,", ",102,", 3, id="class 102"),
        pytest.param(TRAINING, ",8,0", ",8,2", 2, id="flip"),
        pytest.param(WILLOW, r"png,[\d.]+", "png,x", 2, id="letters"),
        pytest.param(CALTECH, r'"[\d.]+', '"1e999', 2, id="infinite"),
        pytest.param(CALTECH, r'"[\d.]+,', '"', 2, id="x without y"),
        pytest.param(CALTECH, '"[^"]+","[^"]+"', '"{0}","{0}"'.format("1," * 400 + "1"), 2, id="vertices"),
        pytest.param(WILLOW, r"PF-dataset/[^,]*/", "", 2, id="no folder"),
        pytest.param(SPAIR, "-2008", "-../2008", 1, id="path in a layout"),
    ],
)
def test_bad_lists(datapath, path, pattern, replacement, line):
    text = (datapath / path).read_text()
    (datapath / path).write_text(re.sub(pattern, replacement, text, count=1))
    assert (datapath / path).read_text() != text
    header = 0 if path == SPAIR else 1
    assert_named(datapath, path, max(line - 1 - header, 0), f"{path}, line {line}: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"src_kps": [[1, 1]] * 41, "trg_kps": [[1, 1]] * 41},
        {"src_kps": [[1, 2]]},
        {"src_kps": [[10**400, 1]] * 10},
        {"trg_kps": None},
        {"trg_bndbox": [9, 9, 1, 1]},
        {"occlusion": "heavy"},
    ],
)
def test_bad_annotations_of_spair(datapath, changes):
    path = next(datapath.glob(JSON))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert_named(datapath, JSON, 0, rf"{SPAIR}, line 1: .*{path.name}")


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("path", "edit", "names"),
    [
        (PASCAL, None, r"PF-PASCAL: .*test_pairs.csv.*--list"),
        (PASCAL, lambda content: content + b"\xff", f"{PASCAL}, line 4"),
        (WILLOW, lambda content: content.splitlines()[0], f"{WILLOW}: "),
        (SPAIR, lambda _: b"", f"{SPAIR}: "),
        (JSON, None, rf"{SPAIR}, line 1: .*\.json"),
        (JSON, half, rf"{SPAIR}, line 1: .*\.json"),
        (JSON, lambda _: b"[" * 100_000, rf"{SPAIR}, line 1: .*\.json"),
        (MATS, None, rf"{PASCAL}, line 2: .*_cat\.mat"),
        (MATS, half, rf"{PASCAL}, line 2: .*_cat\.mat"),
        ("PF-WILLOW/*/*.png", None, rf"{WILLOW}, line 2: .*\.png"),
        ("SPair-71k/JPEGImages/*/*", half, rf"{SPAIR}, line 1: .*\.jpg"),
        ("Caltech-101/1*/*/*", lambda _: b"", rf"{CALTECH}, line 2: .*\.jpg"),
        ("PF-PASCAL/JPEGImages/*", lambda _: b"<html>quota</html>", rf"{PASCAL}, line 2: .*\.jpg"),
    ],
)
def test_bad_files(datapath: Path, path: str, edit: Callable[[bytes], bytes] | None, names: str) -> None:
    for file in list(datapath.glob(path)):
        if edit is None:
            file.unlink()
        else:
            file.write_bytes(edit(file.read_bytes()))
    assert_named(datapath, path, 0, names)
