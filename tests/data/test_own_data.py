"""One's own data: COCO key-point files and tables of pairs; AP-10K and SPair-U, which are read like them."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.data import open_benchmark
from dhpf.data.benchmark import Benchmark
from dhpf.data.coco import MIN_SHARED_KEYPOINTS, draw_pairs
from dhpf.matching.matcher import Matcher
from dhpf.programs import match
from tests.helpers import tiny, tiny_own
from tests.helpers.commands import refused, succeed
from tests.helpers.places import SHARED

COCO = SHARED / "data" / "coco"
needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason=f"needs {COCO}")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tiny_own.make_coco(tmp_path)


def opened(path: Path, split: str | None = None, **options: Any) -> Benchmark:
    name = "table" if path.suffix == ".csv" else "coco"
    return open_benchmark(name, path, split, **({"img_side": 64} | options))


def images(benchmark: Benchmark) -> set[str]:
    return {key for pair in benchmark.pairs for key in (pair.src_key, pair.trg_key)}


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A COCO file with a change."""
    content = tiny_own.coco(folder)
    change(content)
    return tiny_own.make_coco(folder, content)


# COCO


def test_a_pair_is_two_objects_that_share_key_points(own):
    benchmark = opened(own)
    assert len(benchmark) == 2 * 4 * 3  # all ordered pairs of both categories
    pair = benchmark.pairs[4]  # in the file's order: 0-1 0-2 0-3 1-0 1-2
    assert (pair.src_key, pair.trg_key) == ("images/cat_1.jpg", "images/cat_2.jpg")
    sample = benchmark[4]
    assert (sample["category"], sample["n_pts"], sample["leaked"]) == ("cat", 8, -1)
    assert sample["points"].split("\t") == [name for k, name in enumerate(tiny_own.NAMES) if k not in (1, 2)]
    source, target = tiny.views("cat")[1:3]
    for kps, view in ((sample["src_kps"], source), (sample["trg_kps"], target)):
        shown = np.delete(view.points, [1, 2], axis=0) * 64 / view.image.size
        np.testing.assert_allclose(kps[:, :8].T, shown, rtol=1e-5)
    box = np.array(target.box) * 64 / np.tile(target.image.size, 2)
    assert sample["pckthres"] == pytest.approx(max(box[2] - box[0], box[3] - box[1]), rel=1e-5)


def test_objects_of_one_image_make_no_pair(tmp_path):
    def in_one(content):
        for annotation in content["annotations"]:
            annotation["image_id"] = annotation["image_id"] // 10 * 10 + annotation["image_id"] % 2

    assert len(opened(changed(tmp_path, in_one))) == 2 * 2 * 2 * 2


def test_pairs_are_drawn_by_category_always_the_same(own):
    few, again, all_pairs = (opened(own, pairs=n).pairs for n in (5, 5, "all"))
    assert [pair.category_id for pair in few] == [0] * 5 + [1] * 5
    keys, same, order = (
        [(pair.src_key, pair.trg_key) for pair in pairs] for pairs in (few, again, all_pairs)
    )
    assert keys == same
    assert len(set(keys)) == 10
    assert keys == sorted(keys, key=order.index)


@pytest.mark.parametrize("n", [300, 30_000])  # looked at all, and drawn
def test_drawn_pairs_are_valid_distinct_and_spread(n, monkeypatch):
    rng = np.random.default_rng(1)
    shown, where = rng.random((n, 17)) < 0.5, rng.integers(n // 2, size=n)
    codes = draw_pairs(shown, where, 2000, 0)
    source, target = np.divmod(codes, n)
    assert len(np.unique(codes)) == 2000
    assert (where[source] != where[target]).all()
    assert ((shown[source] & shown[target]).sum(1) >= MIN_SHARED_KEYPOINTS).all()
    assert np.histogram(source, 4, (0, n))[0].min() > 400


def test_no_image_is_in_two_splits_whatever_is_drawn(own):
    splits = {
        (split, n): images(opened(own, split, val_share=0.5, pairs=n))
        for split in ("trn", "val")
        for n in (1, "all")
    }
    assert splits["trn", 1] <= splits["trn", "all"]
    assert not splits["trn", "all"] & splits["val", "all"]
    with pytest.raises(UserError, match=r"own\.json: .*TRN,VAL,TEST"):
        opened(own, "test")


def test_three_files_are_the_splits(tmp_path):
    paths = []
    for split in ("trn", "val", "test"):
        (tmp_path / split).mkdir()
        paths.append(tiny_own.make_coco(tmp_path / split))
    shutil.rmtree(tmp_path / "test" / "images")
    three = Path(",".join(map(str, paths)))
    assert [len(opened(three, split)) for split in ("trn", "val", None)] == [24] * 3
    assert opened(three).split == "test"
    with pytest.raises(UserError, match=r"test/.*cat_0.jpg: "):
        opened(three)[0]
    with pytest.raises(UserError, match="TRN,VAL,TEST"):
        opened(Path(",".join(map(str, paths[:2]))))


def test_one_threshold_for_all_pairs(tmp_path):
    def less(content):
        del content["annotations"][0]["bbox"]
        content["annotations"][1]["bbox"] = [1, 1, 0, 0]  # some programs write this for none

    path = changed(tmp_path, less)
    by_image, by_box = opened(path), opened(path, thres="bbox")
    assert (by_image.thres, len(by_image)) == ("img", 24)
    assert {opened(path, split, val_share=0.5).thres for split in ("trn", "val")} == {"img"}
    assert "2 of 8 objects have no box" in "\n".join(by_image.notes)
    torch.utils.data.default_collate([by_image[0], by_image[20]])
    assert (by_box.thres, len(by_box)) == ("bbox", 2 + 12)
    assert "2 of 8 objects have no box" in "\n".join(by_box.notes)


def exported_by_others(content: dict[str, Any]) -> None:
    """Ids of other types, folders of another machine, no names of points, nested key-points, nothing optional."""
    del content["categories"][0]["keypoints"]
    content["categories"][0]["id"] = "1"
    for n, image in enumerate(content["images"]):
        image["id"] = float(image["id"])
        image["file_name"] = [r"C:\data\images\{}", "/home/me/images/{}", "../images/{}"][n % 3].format(
            image["file_name"]
        )
        del image["width"], image["height"]
    for annotation in content["annotations"]:
        kps = annotation["keypoints"]
        annotation["keypoints"] = [kps[i : i + 3] for i in range(0, len(kps), 3)]
        annotation["image_id"] = str(annotation["image_id"])
        del annotation["id"], annotation["iscrowd"]


def test_files_of_other_programs_give_the_same_pairs(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "other").mkdir()
    plain = opened(tiny_own.make_coco(tmp_path / "plain"))
    other = opened(changed(tmp_path / "other", exported_by_others))
    assert [p.src_key for p in plain.pairs] == [p.src_key for p in other.pairs]
    for i in (0, 23):
        a, b = plain[i], other[i]
        for name in a.keys() - {"points"}:
            np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]))
        assert b["points"] == ("2 3 4 5 6 7 8 9".replace(" ", "\t") if i == 0 else a["points"])


@pytest.mark.parametrize(
    ("change", "record"),
    [
        (lambda c: c.pop("images"), "images"),
        (lambda c: c["images"].insert(1, 7), r"images\[1\]"),
        (lambda c: c["images"][1].update(id=0), r"images\[1\]"),
        (lambda c: c["images"][1].update(file_name="/"), "images"),
        (lambda c: c["categories"][1].update(name="cat"), "categories"),
        (lambda c: c["annotations"][1].update(category_id=9), r"annotations\[1\]"),
        (lambda c: c["annotations"][1].update(keypoints=[1.5] * 30), r"annotations\[1\]"),
        (lambda c: c["annotations"][1].update(keypoints=[1, 2, 2]), r"annotations\[1\]: .*annotations\[0\] of cat"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2]), r"annotations\[1\]"),
    ],
)  # fmt: skip
def test_a_bad_coco_file_is_refused_with_the_record(tmp_path, change, record):
    with pytest.raises(UserError, match=rf"own\.json.*{record}") as error:
        opened(changed(tmp_path, change))
    assert "\n" not in str(error.value)


def test_images_are_found_below_the_file_and_in_a_given_folder(own, tmp_path):
    assert opened(own).pairs[0].src_key == "images/cat_0.jpg"
    elsewhere = shutil.move(tmp_path / "images", tmp_path / "elsewhere")
    (elsewhere / "cat_0.jpg").rename(elsewhere / "CAT_0.JPG")
    assert opened(own, images=elsewhere).pairs[0].src_key == "CAT_0.JPG"
    shutil.copytree(elsewhere, tmp_path / "copy")
    with pytest.raises(UserError, match=r"\.jpg.*--images"):
        opened(own)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_annotations_of_a_turned_image_mean_the_image_as_shown(tmp_path, orientation):
    """Annotation programs show images upright; the size says where one did not."""
    turns = (None, *map(Image.Transpose, (0, 3, 1, 5, 2, 6, 4)))  # those that EXIF's undo
    content = tiny_own.coco(tmp_path)
    path = tmp_path / "images" / "cat_0.jpg"
    wide = Image.open(path).convert("RGB").resize((90, 60))
    wide.save(tmp_path / "images" / "plain.png")
    turn, exif = turns[orientation - 1], Image.Exif()
    exif[0x0112] = orientation
    path.unlink()
    (wide if turn is None else wide.transpose(turn)).save(tmp_path / "images" / "cat_0.png", exif=exif)
    content["images"][0] |= {"file_name": "cat_0.png", "width": 90, "height": 60}
    benchmark = opened(tiny_own.make_coco(tmp_path, content))
    assert benchmark.size("images/cat_0.png") == (90, 60)
    assert torch.equal(benchmark.image("images/cat_0.png"), benchmark.image("images/plain.png"))
    content["images"][0] |= {"width": 60, "height": 90}
    stored = opened(tiny_own.make_coco(tmp_path, content))
    if orientation > 4:
        assert stored.size("images/cat_0.png") == (60, 90)
    else:
        with pytest.raises(UserError, match=r"cat_0\.png.*90×60.*60×90"):
            stored[0]


@needs_coco
@pytest.mark.parametrize(("name", "pairs", "points"), [("animalpose", 2, 15), ("zebra", 2, 9)])
def test_real_files_are_read(name, pairs, points):
    benchmark = opened(COCO / name / f"test_{name}.json")
    assert (len(benchmark), benchmark[0]["n_pts"], benchmark.thres) == (pairs, points, "bbox")


# Tables


def test_a_table_gives_its_pairs(tmp_path):
    benchmark = opened(tiny_own.make_table(tmp_path))
    assert [pair.line for pair in benchmark.pairs] == [2, 7, 12, 17]  # the first lines
    assert [benchmark[i]["category"] for i in range(4)] == ["cat", "all", "cat", "dog"]
    sample, (source, target) = benchmark[0], tiny.views("cat")[:2]
    for kps, view in ((sample["src_kps"], source), (sample["trg_kps"], target)):
        shown = view.points[[0, 2, 4, 6, 8, 1, 3, 5, 7, 9]] * 64 / view.image.size
        np.testing.assert_allclose(kps.T, shown, rtol=1e-5)
    assert benchmark.thres == "bbox"
    assert opened(tiny_own.make_table(tmp_path, boxes=False)).thres == "img"


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("target_y", "y", "line 1: .*target_y"),
        ("images/cat_0.jpg", " ", "line 2"),
        ("images/cat_0.jpg", "images/none.jpg", "line 2: .*none.jpg"),
        (r"jpg,[\d.]+,", "jpg,x,", "line 2"),
        (r"jpg,[\d.]+,", "jpg,inf,", "line 2"),
    ],
)
def test_bad_tables_are_named_by_line(tmp_path, old, new, names):
    path = tiny_own.make_table(tmp_path)
    path.write_text(re.sub(old, new, path.read_text(), count=1))
    with pytest.raises(UserError, match=rf"pairs\.csv, {names}"):
        opened(path)[0]


def test_a_pair_of_two_splits_is_in_none(tmp_path):
    path = tiny_own.make_table(tmp_path, pairs=24)
    found = {split: opened(path, split, val_share=0.5) for split in ("trn", "val")}
    assert not images(found["trn"]) & images(found["val"])
    left = 24 - sum(map(len, found.values()))
    assert left
    assert all(b.notes[1].startswith(f"{left} of 24 pairs") for b in found.values())
    with pytest.raises(UserError, match=r"pairs\.csv: .*--val-share"):
        opened(path, "val", val_share=1e-9)


def test_matching_writes_the_table_that_is_read(tmp_path, own):
    cats, table = tmp_path / "images", tmp_path / "tables" / "mine.csv"
    given = f"--grid 3 --img-side 64 --output {tmp_path / 'matches'} --table-out {table}"
    match.main([f"{cats}/cat_0.jpg", f"{cats}/cat_1.jpg", f"{cats}/cat_2.jpg", *given.split()])
    match.main([f"{cats}/cat_3.jpg", f"{cats}/cat_1.jpg", *given.split()])
    benchmark = opened(table)
    assert [Path(pair.src_key).name for pair in benchmark.pairs] == ["cat_0.jpg", "cat_0.jpg", "cat_3.jpg"]
    with (tmp_path / "matches" / "cat_0-cat_2.csv").open() as file:
        rows = [[float(row[name]) for name in ("target_x", "target_y")] for row in csv.DictReader(file)]
    np.testing.assert_allclose(benchmark.complete(benchmark.pairs[1]).trg_kps.T, rows)
    assert benchmark[2]["n_pts"] == 9
    before = table.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        match.main([f"{cats}/cat_0.jpg", f"{cats}/cat_1.jpg", *given.split()])
    assert table.read_bytes() == before


def test_several_who_write_a_table_at_once_lose_no_pair(tmp_path, own):
    table, cats = tmp_path / "mine.csv", [tmp_path / "images" / f"cat_{k}.jpg" for k in range(4)]
    matcher = Matcher.load(img_side=64, device="cpu")
    found = matcher.match(cats[0], cats[1], [(9, 9), (20, 20), (30, 30)])
    pairs = [(a, b) for a in cats for b in cats if a != b]
    with ThreadPoolExecutor(6) as writers:
        list(writers.map(lambda pair: match.add_to_table(table, pair, found), pairs))
    rows = [(tmp_path / pair.src_key, tmp_path / pair.trg_key) for pair in opened(table).pairs]
    assert sorted(rows) == sorted(pairs)


# Training and testing

RUN = "--img-side 64 --workers 0 --device cpu"


@pytest.mark.slow
def test_a_test_after_a_training_says_which_images_were_trained_on(tmp_path, own):
    options = f"--benchmark coco --datapath {own} --val-share 0.5 --pairs 4 {RUN}"
    succeed(tmp_path, f"train.py {options} --bsz 4 --niter 1 --logpath run")
    whole, trained = opened(own, pairs=4), images(opened(own, "trn", val_share=0.5, pairs=4))
    number = sum(pair.src_key in trained or pair.trg_key in trained for pair in whole.pairs)

    def results(run: str) -> dict[str, Any]:
        succeed(tmp_path, f"test.py {options} --load logs/run --on-bad-pair skip --logpath {run}")
        return json.loads((tmp_path / "logs" / run / "results.json").read_text())

    figures = results("test")["figures"]
    assert figures["without_leaked"][0]["n_pairs"] == len(whole) - number
    assert any(f"{number} of {len(whole)} pairs" in line for line in figures["about"])
    assert not any(figure["paper"] for figure in figures["totals"])
    (tmp_path / whole.pairs[0].src_key).unlink()
    skipped = results("skip")["options"]["skipped"]
    assert skipped
    assert all(Path(whole.pairs[0].src_key).name in pair for pair in skipped)
    (tmp_path / "logs" / "run" / "training_images.txt").unlink()
    assert "without_leaked" not in results("unknown")["figures"]


def test_what_does_not_belong_together_is_refused(tmp_path):
    tiny.make_pfpascal(tmp_path)
    refused(tmp_path, f"test.py --benchmark pfpascal --datapath . --pairs 3 {RUN}", "--pairs")
    refused(tmp_path, f"test.py --benchmark coco --datapath . {RUN}", "--datapath")
    refused(tmp_path, f"test.py --benchmark coco --datapath nowhere.json {RUN}", "nowhere.json")


# AP-10K and SPair-U


def test_spairu(tmp_path):
    tiny_own.make_spairu(tmp_path)
    benchmark = open_benchmark("spairu", tmp_path, "test", img_side=64)
    assert len(benchmark) == 4
    assert benchmark.notes[1].startswith("4 of 8 listed pairs")
    assert (benchmark[0]["n_pts"], benchmark.paper) == (4, {})
    path = tmp_path / "SPair-U" / "PairAnnotation" / "test" / benchmark.pairs[0].file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"src_imname": 3}))
    with pytest.raises(UserError, match=f"{path.name}.*src_imname"):
        open_benchmark("spairu", tmp_path, "test")
