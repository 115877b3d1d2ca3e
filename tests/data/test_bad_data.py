"""Bad data give one sentence that names the file, or list and line; never a crash or a skip."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from dhpf.common.errors import UserError
from dhpf.data.lists import path_parts
from dhpf.data.published_lists import Published, digest
from dhpf.data.verify import main, verify
from tests.helpers import tiny
from tests.helpers.places import ROOT
from tests.helpers.tiny import BENCHMARKS

WILLOW = "PF-WILLOW/test_pairs.csv"
PASCAL = "PF-PASCAL/test_pairs.csv"
TRAINING = "PF-PASCAL/trn_pairs.csv"
CALTECH = "Caltech-101/test_pairs_caltech_with_category.csv"
SPAIR = "SPair-71k/Layout/large/test.txt"
JSON = "SPair-71k/PairAnnotation/test/000000-*.json"
MATS = "PF-PASCAL/Annotations/cat/*.mat"
CLASSES = {cls.folder: cls for cls in BENCHMARKS.values()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    for make in tiny.MAKERS.values():
        make(root, pairs=2)
    return root


@pytest.fixture
def datapath(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "datasets"))


def assert_named(datapath: Path, path: str, index: int, message: str) -> None:
    """Sample `index` of the split that a damaged file belongs to, and `verify`, say what is wrong."""
    benchmark = CLASSES[path.split("/")[0]]
    split = "trn" if path == TRAINING else "test"
    with pytest.raises(UserError, match=message) as error:
        benchmark(datapath, split)[index]
    assert "\n" not in str(error.value)
    assert any(re.search(message, problem) for problem in verify(benchmark, datapath).problems)


@pytest.mark.parametrize(
    ("path", "pattern", "replacement", "line", "message"),
    [
        pytest.param(PASCAL, "class", "klass", 1, "the list has no column class", id="missing column"),
        pytest.param(WILLOW, "YB10", "YB0", 1, "the list has no column YB10", id="missing coordinates"),
        pytest.param(CALTECH, r"(?s).*", "", 1, "the list has no column source_image", id="empty file"),
        pytest.param(
            WILLOW, r"(?s)(.*),[^,]*\n", r"\1\n", 3, "the line has too few columns", id="short line"
        ),
        pytest.param(CALTECH, r"\Z", '"' + "1," * 70_000, 4, "not a line of a CSV file", id="unclosed quote"),
        pytest.param(SPAIR, "000001-", "000001_", 2, "'000001_.* is not of the form", id="layout line"),
        pytest.param(SPAIR, ":dog", ":unicorn", 2, "unknown category 'unicorn'", id="category of spair"),
        pytest.param(WILLOW, "duck", "swan", 3, r"unknown category 'swan\(S\)'", id="category of willow"),
        pytest.param(PASCAL, ",8,0", ",0,0", 2, "class '0' is not one of 1 to 20", id="class 0"),
        pytest.param(CALTECH, ",71,", ",102,", 3, "class '102' is not one of 1 to 101", id="class 102"),
        pytest.param(PASCAL, ",8,0", ",lion,0", 2, "class 'lion' is not one of", id="class in words"),
        pytest.param(TRAINING, ",8,0", ",8,2", 2, "flip is '2', not 0 or 1", id="flip"),
        pytest.param(WILLOW, r"png,[\d.]+", "png,x", 2, "'x,.*' is not a list of numbers", id="letters"),
        pytest.param(WILLOW, r"png,[\d.]+", "png,nan", 2, "a key-point is NaN", id="nan"),
        pytest.param(CALTECH, r'"[\d.]+', '"1e999', 2, "a key-point is NaN, infinite", id="infinite"),
        pytest.param(
            CALTECH, r'"[\d.]+,', '"', 2, r"\d+ x and \d+ y where points have one of each", id="x without y"
        ),
        pytest.param(
            CALTECH,
            '"[^"]+","[^"]+"',
            '"{0}","{0}"'.format("1," * 400 + "1"),
            2,
            "401 key-points",
            id="vertices",
        ),
        pytest.param(
            WILLOW, "set/", "set/../", 2, r"'PF-dataset/\.\./.*' is not a path inside", id="upwards"
        ),
        pytest.param(PASCAL, "2008", "/etc/2008", 2, "'/etc/.*' is not a path inside", id="absolute path"),
        pytest.param(SPAIR, "-2008", "-../2008", 1, ".* is not of the form", id="path in a layout"),
    ],
)
def test_bad_lists(datapath, path, pattern, replacement, line, message):
    text = (datapath / path).read_text()
    (datapath / path).write_text(re.sub(pattern, replacement, text, count=1))
    assert (datapath / path).read_text() != text
    header = 0 if path == SPAIR else 1
    assert_named(datapath, path, max(line - 1 - header, 0), f"{path}, line {line}: .*{message}")


def test_a_bad_training_list_is_named_in_testing_too(datapath):
    """It says which test pairs are training pairs."""
    path = datapath / TRAINING
    path.write_text(path.read_text().replace("2008", "/2008", 1))
    with pytest.raises(UserError, match=f"{TRAINING}, line 2: '/2008.*' is not a path inside"):
        BENCHMARKS["pfpascal"](datapath, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"src_kps": [[1, 1]] * 41, "trg_kps": [[1, 1]] * 41}, f"{SPAIR}, line 1: 41 key-points, at most 40"),
        ({"src_kps": [[1, 2]]}, "1 key-points in the source, 10 in the target"),
        ({"src_kps": [[float("nan"), 1]] * 10}, f"{SPAIR}, line 1: a key-point is NaN"),
        ({"src_kps": [[1]] * 10}, "not the annotation of a pair"),
        ({"src_kps": [[10**400, 1]] * 10}, "not the annotation of a pair"),
        ({"trg_kps": None}, "not the annotation of a pair"),
        ({"trg_bndbox": [1, 2, 3]}, "a box is not four numbers"),
        (
            {"trg_bndbox": [9, 9, 1, 1]},
            rf"{SPAIR}, line 1: the box \[9.0, 9.0, 1.0, 1.0\] is not x1 y1 x2 y2",
        ),
        ({"occlusion": "heavy"}, "not the annotation of a pair"),
    ],
)
def test_bad_annotations_of_spair(datapath, changes, message):
    path = next(datapath.glob(JSON))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert_named(datapath, JSON, 0, f"{SPAIR}, line 1: .*{message.removeprefix(f'{SPAIR}, line 1: ')}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kps": np.ones((10, 3))}, r"_cat.mat: kps is \(10, 3\) and bbox \(1, 4\), not"),
        ({"kps": np.ones((10**5, 2))}, r"_cat.mat: kps is \(100000, 2\)"),  # a bomb is not even unpacked
        ({"kps": np.array([["a", "b"]] * 10, dtype=object)}, "_cat.mat: not an annotation with kps and bbox"),
        ({"kps": np.full((10, 2), np.inf)}, "a key-point is NaN, infinite"),
        ({"kps": np.ones((41, 2))}, "41 key-points, at most 40"),
        ({"bbox": np.full((1, 4), np.nan)}, r"the box \[nan, nan, nan, nan\] is not"),
    ],
)
def test_bad_annotations_of_pfpascal(datapath, changes, message):
    for path in datapath.glob(MATS):
        content = {key: value for key, value in loadmat(path).items() if not key.startswith("_")}
        savemat(path, content | changes, do_compression=True)
    assert_named(datapath, MATS, 0, f"{PASCAL}, line 2: .*{message}")


def test_annotations_of_a_pair_that_differ_in_length(datapath):
    key = BENCHMARKS["pfpascal"](datapath, "test").annotation(0)["src_key"]
    name = Path(key).with_suffix(".mat").name
    savemat(datapath / "PF-PASCAL/Annotations/cat" / name, {"kps": np.ones((9, 2)), "bbox": np.ones((1, 4))})
    message = f"{PASCAL}, line 2: {key} has 9 key-points, .*_cat.jpg has 10"
    assert_named(datapath, MATS, 0, message)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("path", "edit", "message"),
    [
        (PASCAL, None, r"PF-PASCAL: it has no list of test pairs \(.*test_pairs.csv\): name one with --list"),
        (
            PASCAL,
            lambda content: content + b"\xff",
            f"{PASCAL}, line 4: the file is not text, save it as UTF-8",
        ),
        (WILLOW, lambda content: content.splitlines()[0], f"{WILLOW}: the list names no pair"),
        (SPAIR, lambda _: b"", f"{SPAIR}: the list names no pair"),
        (JSON, None, rf"{SPAIR}, line 1: .*\.json: the file cannot be read"),
        (JSON, half, rf"{SPAIR}, line 1: .*\.json: not the annotation of a pair"),
        (JSON, lambda _: b"[]", r"\.json: not the annotation of a pair"),
        (JSON, lambda _: b"[" * 100_000, r"\.json: not the annotation of a pair"),
        (JSON, lambda _: b" " * 1024 * 1025, r"\.json: the file is larger than 1 MiB"),
        (MATS, None, rf"{PASCAL}, line 2: .*_cat.mat: the file cannot be read"),
        (MATS, half, rf"{PASCAL}, line 2: .*_cat.mat: not an annotation with kps and bbox"),
        (MATS, lambda _: b"x" * 500, "_cat.mat: not an annotation with kps and bbox"),
        ("PF-WILLOW/*/*.png", None, rf"{WILLOW}, line 2: .*\.png: the image is missing"),
        ("PF-WILLOW/*/*.png", half, rf"{WILLOW}, line 2: .*\.png: the image cannot be decoded"),
        ("PF-WILLOW/*/*.png", lambda _: b"P6 0 0 255\n", rf"{WILLOW}, line 2: .*\.png: the image"),
        (
            "SPair-71k/JPEGImages/*/*",
            half,
            rf"{SPAIR}, line 1: .*\.jpg: the image cannot be decoded .*truncated",
        ),
        ("Caltech-101/1*/*/*", lambda _: b"", rf"{CALTECH}, line 2: .*\.jpg: the image cannot be decoded"),
        (
            "PF-PASCAL/JPEGImages/*",
            lambda _: b"<html>quota</html>",
            rf"{PASCAL}, line 2: .*\.jpg: the image cannot",
        ),
    ],
)
def test_bad_files(datapath, path, edit, message):
    for file in list(datapath.glob(path)):
        if edit is None:
            file.unlink()
        else:
            file.write_bytes(edit(file.read_bytes()))
    assert_named(datapath, path, 0, message)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_folder_says_which_and_how_to_get_it(tmp_path, name, capsys):
    message = rf"--datapath .*'{BENCHMARKS[name].folder}'.*--no-download.*unpack its archive"
    with pytest.raises(UserError, match=message):
        BENCHMARKS[name](tmp_path, "test")
    assert main(["--benchmark", name, "--datapath", str(tmp_path)]) == 2
    assert re.search(message, capsys.readouterr().err)


@given(st.text(max_size=30), st.sampled_from([1, 2]))
def test_no_path_of_a_list_leaves_the_folder(name, count):
    try:
        parts = path_parts(name, count)
    except UserError:
        return
    root = Path("/data/folder")
    assert root in (root / "/".join(parts)).resolve().parents


@pytest.fixture
def published(whole, monkeypatch) -> None:
    """The tiny lists as the published ones."""
    for cls in BENCHMARKS.values():
        lists = {}
        for split in cls.splits:
            data = cls(whole, split, evaluation=True)
            pairs = [(data.categories[p.category_id], p.src_key, p.trg_key) for p in data.pairs]
            lists[split] = Published(len(pairs), digest(pairs) if cls.name.startswith("pf") else "")
        monkeypatch.setattr(cls, "published", lists)


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.usefixtures("published")
def test_verify_is_content_with_whole_benchmarks(whole, name, capsys):
    assert main(["--benchmark", name, "--datapath", str(whole)]) == 0
    *found, summary = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{name}: \d pairs, \d images, no problems", summary)
    words = "list: the published test list of 2 pairs" if name.startswith("pf") else "2; content not checked"
    assert [line for line in found if line.endswith(words)]
    assert str(BENCHMARKS[name](whole, "test").list_path) in "".join(found)


@pytest.mark.usefixtures("published")
def test_verify_lists_everything_that_is_wrong(datapath, capsys):
    (datapath / "SPair-71k/JPEGImages/dog/2008_000000.jpg").unlink()
    next(datapath.glob(JSON)).write_text("{")
    (datapath / "SPair-71k/Layout/large/val.txt").write_text("")
    assert main(["--benchmark", "spair", "--datapath", str(datapath)]) == 1
    *told, summary = capsys.readouterr().out.splitlines()
    assert summary.endswith("3 problems")
    for message in (
        "dog/2008_000000.jpg: the image is missing",
        "test/000000-.*not the",
        "val.txt: the list names no pair",
    ):
        assert len([line for line in told if re.search(message, line)]) == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"src_bndbox": [50, 60, 55, 65]}, "2 of 4 boxes leave"),
        ({"trg_bndbox": [90, 90, 9000, 9000], "src_bndbox": [50, 60, 55, 65]},
         "4 of 4 boxes leave their image or exclude their key-points: are they x y w h"),
        ({"src_kps": [[9000, 1]] * 10}, "2 pairs have key-points outside their image, first .*test.txt, line 1"),
        ({"trg_bndbox": [50, 60, 50, 60]}, "2 pairs have a threshold of zero, first .*test.txt, line 1"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("published")
def test_verify_doubts_what_is_odd(datapath, changes, problem):
    for path in (datapath / "SPair-71k/PairAnnotation/test").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    told = "\n".join(verify(BENCHMARKS["spair"], datapath).problems)
    assert bool(re.search(f"spair test: {problem}", told)) == ("2 of 4" not in problem)  # half is not most


@pytest.mark.usefixtures("published")
def test_verify_knows_which_list_it_is_and_is_brief(datapath, monkeypatch):
    shutil.copy(datapath / "PF-PASCAL/val_pairs.csv", datapath / PASCAL)
    shutil.rmtree(datapath / "PF-PASCAL/JPEGImages")
    monkeypatch.setattr("dhpf.data.verify.SHOWN", 2)
    problems = verify(BENCHMARKS["pfpascal"], datapath).problems
    test = [line for line in problems if line.startswith("pfpascal test: ")]
    assert test[0].startswith("pfpascal test: list: the published val list, not the test list")
    (datapath / TRAINING).unlink()
    problems = verify(BENCHMARKS["pfpascal"], datapath).problems
    assert [line for line in problems if "it has no list of trn pairs" in line]
    many = [line for line in problems if re.fullmatch(r"pfpascal val: and \d more", line)]
    assert len(many) == 1


def test_verify_is_a_command(tmp_path):
    command = [sys.executable, "-m", "dhpf.data.verify", "--benchmark", "spair", "--datapath", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"--datapath {tmp_path}: benchmark spair needs the folder 'SPair-71k'")


def test_verify_refuses_a_benchmark_that_it_does_not_know(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--benchmark", "imagenet"])
    assert error.value.code == 2
    assert "pfpascal" in capsys.readouterr().err
