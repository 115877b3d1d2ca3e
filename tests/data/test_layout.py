"""Folders, lists and annotations as other publications lay them, name them and write them; which of them is the
published list."""

import csv
import json
import shutil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from torch.utils.data import default_collate

from dhpf.common.errors import UserError
from dhpf.data import BENCHMARKS, open_benchmark
from dhpf.data.benchmark import Benchmark
from dhpf.data.pfpascal import PFPascal
from dhpf.data.published_lists import Published, digest
from dhpf.evaluation.figures import score
from dhpf.evaluation.predictions import rows_of, table_of
from tests.helpers import tiny
from tests.helpers.commands import TINY, refused, succeed
from tests.helpers.places import SHARED

PAIRS = 4
LISTS = SHARED / "lists"
needs_lists = pytest.mark.skipif(not LISTS.exists(), reason="no lists of other publications")


def samples(data: Benchmark) -> list[dict[str, Any]]:
    """What the pairs are, without their places in files."""
    chosen = ("category", "n_pts", "points", "src_kps", "trg_kps", "pckthres", "flip", "src_size")
    found = [data.annotation(i) for i in range(len(data))]
    return [{key: np.asarray(sample[key]).tolist() for key in chosen} for sample in found]


def moved(root: Path, moves: str) -> None:
    """Moves files, 'FROM > TO, FROM > TO'; FROM may have wildcards, and a TO that ends in / is a folder."""
    for move in moves.split(", "):
        source, target = move.split(" > ")
        for path in sorted(root.glob(source)):
            place = root / target / (path.name if target.endswith("/") else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)


LAYOUTS = {
    "pfpascal": (
        "PF-PASCAL > pf-pascal",
        "PF-PASCAL > PF-dataset-PASCAL",
        "PF-PASCAL > x, x > PF-PASCAL/PF-PASCAL",
        "PF-PASCAL/JPEGImages > PF-PASCAL/PF-dataset-PASCAL/, PF-PASCAL/Annotations > PF-PASCAL/PF-dataset-PASCAL/",
        "PF-PASCAL > x, x > pf-pascal/PF-dataset-PASCAL, */*/*.csv > pf-pascal/image_pairs/",
        "PF-PASCAL/trn_pairs.csv > PF-PASCAL/train_pairs.csv, PF-PASCAL/*.csv > PF-PASCAL/image_pairs/",
        "PF-PASCAL/*.csv > ./",
        "PF-PASCAL/trn_pairs.csv > PF-PASCAL/train_pairs_pf_pascal.csv, "
        "PF-PASCAL/test_pairs.csv > PF-PASCAL/test_pairs_pf_pascal.csv",
        "PF-PASCAL/test_pairs.csv > PF-PASCAL/bbox_test_pairs_pf_pascal.csv",
    ),
    "pfwillow": (
        "PF-WILLOW > pf-willow",
        "PF-WILLOW > x, x > pf-willow/PF-dataset",
        "PF-WILLOW > x, x > PF-WILLOW/PF-dataset, */*/*.csv > PF-WILLOW/",
        "PF-WILLOW > PF-dataset, PF-dataset/test_pairs.csv > PF-dataset/test_pairs_pf.csv",
        "PF-WILLOW > PF-dataset, PF-dataset/test_pairs.csv > bbox_test_pairs_pf.csv",
    ),
    "spair": (
        "SPair-71k > SPair71k",
        "SPair-71k > x, x > SPair-71k/SPair-71k",
        "SPair-71k/Layout/large > SPair-71k/Layout/small",
        "SPair-71k/Layout > nowhere",
    ),
    "caltech": ("Caltech-101 > caltech-101", "Caltech-101 > x, x > caltech-101/Caltech-101"),
}


@pytest.mark.parametrize(("name", "moves"), [(k, m) for k, every in LAYOUTS.items() for m in every])
def test_a_layout_gives_the_same_pairs(datapath: Path, whole: Path, name: str, moves: str) -> None:
    moved(datapath, moves)
    for split in {"trn", "test"} & set(BENCHMARKS[name].splits):
        data = open_benchmark(name, datapath, split, evaluation=False)
        assert samples(data) == samples(BENCHMARKS[name](whole, split))
        assert data.image(data.pairs[0].src_key).shape == (3, 240, 240)
        assert all(str(path) in data.notes[0] for path in (data.list_path, data.root))
    if name == "pfpascal":  # the training list was found by its name, too
        assert data.annotation(0)["leaked"] >= 0


@pytest.mark.parametrize("name", tiny.MAKERS)
def test_datapath_may_be_the_folder_itself_or_is_hinted_at(datapath: Path, whole: Path, name: str) -> None:
    folder = datapath / BENCHMARKS[name].folder
    expected = samples(BENCHMARKS[name](whole, "test"))
    assert samples(open_benchmark(name, folder, "test")) == expected
    with pytest.raises(UserError, match=f"--datapath {datapath.parent}.*--datapath {datapath}"):
        open_benchmark(name, datapath.parent, "test", download=True)
    renamed = folder.rename(datapath / "of any name")
    assert samples(open_benchmark(name, renamed, "test")) == expected


def rewritten(path: Path, edit: Any, **style: Any) -> None:
    """Writes the rows of a CSV file, header first, as `edit` makes them."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file, **style).writerows(edit(rows))


def indexed(rows: list[list[str]], head: list[str]) -> list[list[str]]:
    return [[*head, *rows[0]], *([str(n), *row] for n, row in enumerate(rows[1:]))]


FORMS: dict[str, Any] = {
    "classes as 1.0": (lambda rows: [[c + ".0" if c.isdecimal() and len(r) == 4 else c for c in r] for r in rows], {}),
    "classes by name": (
        lambda rows: [[PFPascal.categories[int(c) - 1] if n == 2 and c.isdecimal() else c for n, c in enumerate(r)]
                      for r in rows], {}),
    "an index": (lambda rows: indexed(rows, [""]), {}),
    "an index without a name": (lambda rows: indexed(rows, []), {}),
    "semicolons": (list, {"delimiter": ";"}),
    "tabs": (list, {"delimiter": "\t"}),
    "a last separator": (lambda rows: [[*row, ""] for row in rows], {}),
    "a last separator but in the header": (lambda rows: [rows[0], *([*row, ""] for row in rows[1:])], {}),
    "blank lines": (lambda rows: [[], *(line for row in rows for line in ([], row, ["", ""]))], {}),
    "other columns": (lambda rows: [[*reversed(row), "7"] if n else [*reversed(row), "more"]
                                    for n, row in enumerate(rows)], {}),
    "backslashes": (lambda rows: [[c.replace("2008", "PF-dataset\\JPEGImages\\2008", 1) for c in r] for r in rows], {}),
    "paths of another machine": (lambda rows: [[c.replace("2008", "/home/me/2008", 1) for c in r] for r in rows], {}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_list_in_another_form_means_the_same(datapath: Path, whole: Path, form: str) -> None:
    edit, style = FORMS[form]
    rewritten(datapath / "PF-PASCAL/trn_pairs.csv", edit, **style)
    assert samples(PFPascal(datapath, "trn")) == samples(PFPascal(whole, "trn"))


@pytest.mark.parametrize("name", ["pfpascal", "spair"])
@pytest.mark.parametrize(
    ("ending", "encoding"), [("\r\n", "utf-8-sig"), ("\r", "utf-8"), ("\n", "utf-16"), ("\r\n", "utf-16-le")]
)
def test_encoding_and_line_endings_do_not_matter(
    datapath: Path, whole: Path, name: str, ending: str, encoding: str
) -> None:
    path = BENCHMARKS[name](datapath, "test").list_path
    path.write_bytes(ending.join(path.read_text().splitlines()).encode(encoding))
    assert samples(BENCHMARKS[name](datapath, "test")) == samples(BENCHMARKS[name](whole, "test"))


@pytest.mark.parametrize("form", ["{};", "[{} ]", "({},)"])
def test_coordinates_in_other_forms_mean_the_same(datapath: Path, whole: Path, form: str) -> None:
    path = datapath / "Caltech-101/test_pairs_caltech_with_category.csv"
    separator = ", " if form.startswith("[") else ";" if ";" in form else ","
    rewritten(
        path,
        lambda rows: [[form.format(c.replace(",", separator)) if "," in c else c for c in r] for r in rows],
    )
    found, expected = (BENCHMARKS["caltech"](root, "test") for root in (datapath, whole))
    assert samples(found) == samples(expected)


def test_where_annotations_are_missing_the_points_of_the_list_count(datapath: Path, whole: Path) -> None:
    expected = PFPascal(whole, "test")
    pairs = [expected.complete(pair) for pair in expected.pairs]

    def with_points(rows: list[list[str]]) -> list[list[str]]:
        lists = [[";".join(map(str, axis)) for axis in (*p.src_kps, *p.trg_kps)] for p in pairs]
        lists = [["XA", "YA", "XB", "YB"], *lists]
        return [row + more for row, more in zip(rows, lists, strict=True)]

    rewritten(datapath / "PF-PASCAL/test_pairs.csv", with_points)
    assert samples(PFPascal(datapath, "test")) == samples(expected)
    shutil.rmtree(datapath / "PF-PASCAL/Annotations/cat")
    data = PFPascal(datapath, "test")
    for before, after in zip(samples(expected), samples(data), strict=True):
        numbered = "" if before["category"] == "cat" else before["points"]
        assert before | {"points": numbered} == after
    assert [bool(data.annotation(k)["trg_bbox"].isnan().all()) for k in (0, 1)] == [True, False]
    with pytest.raises(UserError, match="line 2: --thres bbox"):
        PFPascal(datapath, "test", "bbox").annotation(0)


def test_names_in_another_case_are_found_and_said_once(datapath: Path, whole: Path) -> None:
    for path in (datapath / "PF-PASCAL/JPEGImages").glob("*_cat.jpg"):
        path.rename(path.with_name(path.name.upper()))
    data = PFPascal(datapath, "trn")
    assert samples(data) == samples(PFPascal(whole, "trn"))
    assert data[0]["src_img"].shape == (3, 240, 240)
    assert len([note for note in data.notes if "CAT.JPG for JPEGImages/2008_" in note]) == 1


def test_spair_as_windows_unpacks_it(datapath: Path, whole: Path) -> None:
    expected = samples(BENCHMARKS["spair"](whole, "test"))
    for path in (datapath / "SPair-71k/PairAnnotation/test").iterdir():
        path.rename(path.with_name(path.name.replace(":", "_")))
    assert samples(BENCHMARKS["spair"](datapath, "test")) == expected
    layout = datapath / "SPair-71k/Layout/large/test.txt"
    layout.write_text("\r\n" + layout.read_text().replace(":", "_").replace("\n", "\r\n\r\n"))
    assert samples(BENCHMARKS["spair"](datapath, "test")) == expected
    shutil.rmtree(datapath / "SPair-71k/Layout")
    assert samples(BENCHMARKS["spair"](datapath, "test")) == expected


def test_points_of_spair_may_be_absent_or_carry_their_visibility(datapath: Path) -> None:
    path = next((datapath / "SPair-71k/PairAnnotation/test").glob("000000-*"))
    content = json.loads(path.read_text())
    before = BENCHMARKS["spair"](datapath, "test").annotation(0)
    src, trg = content["src_kps"], [[*point, 2] for point in content["trg_kps"]]
    src[0], src[1], trg[2], trg[3] = None, [None, None], None, [5, 5, 0]
    ids = [str(n + 1) for n in range(10)]
    path.write_text(json.dumps(content | {"src_kps": src, "trg_kps": trg, "kps_ids": ids}))
    after = BENCHMARKS["spair"](datapath, "test").annotation(0)
    assert after["n_pts"] == 6
    assert after["points"] == "5\t6\t7\t8\t9\t10"
    for end in ("src_kps", "trg_kps"):
        np.testing.assert_array_equal(after[end][:, :6], before[end][:, 4:10])


def test_evaluation_of_training_pairs_mirrors_none_and_leaves_copies_out(datapath: Path) -> None:
    names = [f"2008_00000{k}_cat.jpg" for k in range(4)]
    rows = [[0, 1, 0], [0, 1, 1], [2, 3, 1], [3, 2, 0]]
    table = [
        ["source_image", "target_image", "class", "flip"],
        *([names[a], names[b], 8, f] for a, b, f in rows),
    ]
    tiny.write_csv(datapath / "PF-PASCAL/trn_pairs.csv", table)
    assert [pair.flip for pair in PFPascal(datapath, "trn").pairs] == [0, 1, 1, 0]
    data = PFPascal(datapath, "trn", evaluation=True)
    assert [(pair.line, pair.flip) for pair in data.pairs] == [(2, 0), (4, 0), (5, 0)]  # one has no original
    assert any(note.startswith("1 mirrored") for note in data.notes)


def test_categories_restrict_the_pairs(datapath: Path) -> None:
    data = PFPascal(datapath, "test", only=("dog",))
    assert {pair.category_id for pair in data.pairs} == {PFPascal.categories.index("dog")}
    with pytest.raises(UserError, match=r"--categories: .*'unicorn'.* aeroplane, bicycle"):
        PFPascal(datapath, "test", only=("cat", "unicorn"))
    with pytest.raises(UserError, match=r"--categories: .*test_pairs.csv.* cow"):
        PFPascal(datapath, "test", only=("cat", "cow"))


def pairs_of(data: Benchmark) -> list[tuple[str, str, str]]:
    return [(data.categories[p.category_id], p.src_key, p.trg_key) for p in data.pairs]


def test_a_list_is_compared_with_the_published_ones(datapath: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    val, test = (pairs_of(PFPascal(datapath, split)) for split in ("val", "test"))
    lists = {"val": Published(4, digest(val)), "test": Published(4, digest(reversed(test)))}
    monkeypatch.setattr(PFPascal, "published", MappingProxyType(lists))
    path = datapath / "PF-PASCAL/test_pairs.csv"

    text = path.read_text()
    swapped = text.replace("2008_000000_cat.jpg", "x").replace("2008_000003_cat.jpg", "2008_000000_cat.jpg")
    val = (datapath / "PF-PASCAL/val_pairs.csv").read_text()
    shorter = "\n".join(text.splitlines()[:-1])
    for content in (text, shorter, swapped.replace("x", "2008_000003_cat.jpg"), val):
        path.write_text(content)
        data = PFPascal(datapath, "test")
        assert data.is_published == (content == text)
    assert "the published val list" in "".join(data.notes)
    monkeypatch.setattr(PFPascal, "published", MappingProxyType({"test": Published(4)}))
    assert PFPascal(datapath, "test").is_published


NOT_TEST = "the published val list, not the test list: not comparable with the paper"


@needs_lists
@pytest.mark.parametrize(
    ("file", "split", "words"),
    [
        ("ncnet/train_pairs.csv", "trn", "the published trn list of 1470 pairs without mirrored copies"),
        ("dccnet/val_pairs.csv", "val", "the published val list of 308 pairs"),
        ("ncnet/test_pairs.csv", "test", "the published test list of 299 pairs"),
        ("weakalign/test_pairs.csv", "test", NOT_TEST),
    ],
)  # fmt: skip
def test_real_lists_are_known(datapath: Path, file: str, split: str, words: str) -> None:
    data = PFPascal(datapath, split, pair_list=LISTS / file)
    assert f"list: {words}" in data.notes


def test_figures_of_the_paper_need_the_published_test_pairs(
    datapath: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = {split: PFPascal(datapath, split) for split in ("val", "test")}
    known = {split: Published(4, digest(pairs_of(data))) for split, data in opened.items()}

    for split, published, pairs, figures in (
        ("test", known, 4, 1),
        ("test", {"test": Published(4)}, 4, 1),  # its content cannot be checked
        ("test", {"test": Published(5)}, 4, 0),
        ("test", known, 3, 0),
        ("test", {"test": known["val"]}, 4, 0),
        ("val", known, 4, 0),
    ):
        monkeypatch.setattr(PFPascal, "published", MappingProxyType(published))
        data = opened[split]
        batch = default_collate([data.annotation(i) for i in range(pairs)])
        table = table_of(rows_of(batch, batch["trg_kps"], data), list(data.labels))
        assert sum(figure["paper"] for figure in score(table, (0.1,))["totals"]) == figures


def test_lists_and_categories_of_training(datapath: Path, tmp_path: Path) -> None:
    folder = datapath / "PF-PASCAL"
    for split in ("trn", "val"):
        (folder / f"{split}_pairs.csv").rename(datapath / f"my {split}.csv")
    on = f"train.py --benchmark pfpascal --datapath {datapath} {TINY} --bsz 2 --niter 1 --categories cat"
    assert "trn" in refused(tmp_path, on)
    assert "--list" in refused(tmp_path, f"{on} --list '{datapath}/my trn.csv'")
    assert "--list" in refused(
        tmp_path, f"test.py --datapath {datapath} {TINY} --benchmark pfpascal --list a b"
    )
    out = succeed(tmp_path, f"{on} --list '{datapath}/my trn.csv' '{datapath}/my val.csv' --logpath run").out
    assert all(f"pfpascal {split}: 2 pairs of {datapath}/my {split}.csv" in out for split in ("trn", "val"))
    # A resumed run has the same lists and categories, and refuses others.
    assert "epoch 2/2" in succeed(tmp_path, "train.py --resume logs/run --niter 2").out
    assert "--categories" in refused(tmp_path, "train.py --resume logs/run --niter 3 --categories dog")
