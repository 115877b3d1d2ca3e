"""The command that checks a benchmark's folder."""

import json
import re

import pytest

from dhpf.data.published_lists import Published, digest
from dhpf.data.verify import main, verify
from tests.helpers import tiny_own
from tests.helpers.tiny import BENCHMARKS

PAIRS = 2


@pytest.fixture(autouse=True)
def _published(whole, monkeypatch) -> None:
    """The tiny lists as the published ones."""
    for cls in BENCHMARKS.values():
        lists = {}
        for split in cls.splits:
            data = cls(whole, split, evaluation=True)
            pairs = [(data.categories[p.category_id], p.src_key, p.trg_key) for p in data.pairs]
            lists[split] = Published(len(pairs), digest(pairs) if cls.name.startswith("pf") else "")
        monkeypatch.setattr(cls, "published", lists)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_whole_benchmark_has_no_problem(whole, name, capsys):
    assert main(["--benchmark", name, "--datapath", str(whole)]) == 0
    *found, summary = capsys.readouterr().out.splitlines()
    assert re.match(rf"{name}: \d pairs, \d images, no problem", summary)
    assert any("list: " in line and "published test list" in line for line in found)
    assert str(BENCHMARKS[name](whole, "test").list_path) in "".join(found)


def test_own_data_are_checked_too(tmp_path, capsys):
    tiny_own.make_spairu(tmp_path)
    path = tiny_own.make_coco(tmp_path)
    data = {"spairu": tmp_path, "coco": path, "table": tiny_own.make_table(tmp_path)}
    for name, place in data.items():
        assert main(["--benchmark", name, "--datapath", str(place)]) == 0, name
    three = f"{path},{path},{tmp_path}/pairs.csv"
    assert main(["--benchmark", "coco", "--datapath", three]) == 1  # each of the files is read
    assert "pairs.csv" in capsys.readouterr().out
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"][6] = 1000
    tiny_own.make_coco(tmp_path, content)
    (tmp_path / "images" / "dog_1.jpg").write_bytes(b"")
    capsys.readouterr()
    assert main(["--benchmark", "coco", "--datapath", str(path), "--images", str(tmp_path / "images")]) == 1
    out = capsys.readouterr().out
    assert "dog_1.jpg" in out
    assert "4 pairs have key-points outside" in out


def test_everything_that_is_wrong_is_listed(datapath, capsys):
    (datapath / "SPair-71k/JPEGImages/dog/2008_000000.jpg").unlink()
    next(datapath.glob("SPair-71k/PairAnnotation/test/000000-*.json")).write_text("{")
    (datapath / "SPair-71k/Layout/large/val.txt").write_text("")
    assert main(["--benchmark", "spair", "--datapath", str(datapath)]) == 1
    *lines, summary = capsys.readouterr().out.splitlines()
    assert summary.endswith("3 problems")
    for name in (r"dog/2008_000000\.jpg: ", r"test/000000-.*\.json: ", r"val\.txt: "):
        assert len([line for line in lines if re.search(name, line)]) == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"src_bndbox": [50, 60, 55, 65]}, ""),  # half of the boxes are not most
        ({"trg_bndbox": [90, 90, 9000, 9000], "src_bndbox": [50, 60, 55, 65]}, "4 of 4 boxes"),
        ({"src_kps": [[9000, 1]] * 10}, "2 pairs have key-points outside .*test.txt, line 1"),
        ({"trg_bndbox": [50, 60, 50, 60]}, "2 pairs have a threshold of zero.*test.txt, line 1"),
    ],
)
def test_what_is_odd_about_a_split_is_counted(datapath, changes, problem):
    for path in (datapath / "SPair-71k/PairAnnotation/test").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    problems = verify(BENCHMARKS["spair"], datapath).problems
    assert len(problems) == bool(problem)
    assert re.search(problem, "".join(problems))
