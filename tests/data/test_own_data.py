"""One's own data: COCO key-point files and tables of pairs; AP-10K and SPair-U, which are read like them."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.data import open_benchmark, verify
from dhpf.data.benchmark import Benchmark
from dhpf.data.coco import SHARED as SHARED_POINTS
from dhpf.data.coco import draw
from dhpf.programs import match, test, train
from tests.helpers import tiny, tiny_own
from tests.helpers.places import SHARED

COCO = SHARED / "data" / "coco"
needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason=f"needs {COCO}")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tiny_own.make_coco(tmp_path)


def opened(path: Path, split: str | None = None, **given: Any) -> Benchmark:
    name = "table" if path.suffix == ".csv" else "coco"
    return open_benchmark(name, path, split, **({"img_side": 64} | given))


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
    assert benchmark.notes[1:] == ["at most 100 pairs drawn of each category"]
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
    codes = draw(shown, where, 2000, 0)
    source, target = np.divmod(codes, n)
    assert len(np.unique(codes)) == 2000
    assert (where[source] != where[target]).all()
    assert ((shown[source] & shown[target]).sum(1) >= SHARED_POINTS).all()
    assert np.histogram(source, 4, (0, n))[0].min() > 400


def test_all_pairs_of_a_large_file_are_refused(tmp_path):
    def many(content):
        content["annotations"] *= 600
        content["images"] += [image | {"id": f"{image['id']} again"} for image in content["images"]]

    path = changed(tmp_path, many)
    with pytest.raises(UserError, match=r"--pairs all: .*own.json gives more than 1,000,000 pairs"):
        opened(path, pairs="all")
    assert len(opened(path)) == 200


def test_no_image_is_in_two_splits_whatever_is_drawn(own):
    splits = {
        (split, n): images(opened(own, split, val_share=0.5, pairs=n))
        for split in ("trn", "val")
        for n in (1, "all")
    }
    assert splits["trn", 1] <= splits["trn", "all"]
    assert not splits["trn", "all"] & splits["val", "all"]
    with pytest.raises(UserError, match="one file has no split 'test'"):
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
    with pytest.raises(UserError, match=r"test/.*cat_0.jpg: the image is missing"):
        opened(three)[0]
    with pytest.raises(UserError, match="give one file, or three"):
        opened(Path(",".join(map(str, paths[:2]))))


def test_one_threshold_for_all_pairs(tmp_path):
    def less(content):
        del content["annotations"][0]["bbox"]
        content["annotations"][1]["bbox"] = [1, 1, 0, 0]  # some programs write this for none

    path = changed(tmp_path, less)
    by_image, by_box = opened(path), opened(path, thres="bbox")
    assert (by_image.thres, len(by_image)) == ("img", 24)
    assert by_image.notes[1] == (
        "2 of 8 objects have no box: the threshold is the image's side (img) for all"
    )
    torch.utils.data.default_collate([by_image[0], by_image[20]])
    assert (by_box.thres, len(by_box)) == ("bbox", 2 + 12)
    assert by_box.notes[1] == "2 of 8 objects have no box and are left out"


def test_what_is_left_out_is_counted(tmp_path):
    def odd(content):
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"][1]["image_id"] = 999
        content["annotations"][2]["keypoints"] = []
        content["categories"].append({"id": 7, "name": "unicorn"})
        del content["images"][3:5], content["annotations"][5:]

    with pytest.raises(UserError) as error:
        opened(changed(tmp_path, odd))
    assert re.search(r"own.json: there is no pair in split whole, .*three|3 key-points", str(error.value))
    for words in (
        "1 annotations are crowds",
        "3 annotations belong to no image",
        "1 annotations have no key-p",
    ):
        assert words in str(error.value)

    def lonely(content):
        content["categories"].append({"id": 7, "name": "unicorn"})
        content["annotations"][0]["category_id"] = 7

    assert opened(changed(tmp_path, lonely)).notes[-1] == "no pair of unicorn (1 object)"


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
    plain, other = (
        opened(tiny_own.make_coco(tmp_path / "plain")),
        opened(changed(tmp_path / "other", exported_by_others)),
    )
    assert [p.src_key for p in plain.pairs] == [p.src_key for p in other.pairs]
    for i in (0, 23):
        a, b = plain[i], other[i]
        assert all(
            torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k]
            for k in a.keys() - {"points"}
        )
        assert b["points"] == ("2 3 4 5 6 7 8 9".replace(" ", "\t") if i == 0 else a["points"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), r"own.json: not a COCO file of key-points, it has no list 'images'"),
        (lambda c: c["images"].insert(1, 7), r"own.json, images\[1\]: not a record"),
        (lambda c: c["images"][1].pop("file_name"), r"images\[1\]: it has no file_name"),
        (lambda c: c["images"][1].update(id=None), r"images\[1\]: its id is None, not a number or a text"),
        (lambda c: c["images"][1].update(id=0), r"images\[1\]: another has the id 0"),
        (lambda c: c["categories"][1].update(name="cat"), "two categories have one name"),
        (lambda c: c["annotations"][1].update(category_id=9), r"annotations\[1\]: no category has the id 9"),
        (lambda c: c["annotations"][1].update(image_id=True), r"annotations\[1\]: its image_id is True"),
        (lambda c: c["annotations"][1].update(keypoints=[1, 2]), r"annotations\[1\]: keypoints is \[1, 2\]"),
        (lambda c: c["annotations"][1].update(keypoints=[1.5] * 30), r"annotations\[1\]: .*a v is not 0, 1 or 2"),
        (lambda c: c["annotations"][1].update(keypoints=[1, 2, 2]), r"1 key-points, where annotations\[0\] of cat"),
        (lambda c: c["annotations"][1].update(keypoints=[0] * 3003), r"1001 key-points, at most 1000"),
        (lambda c: c["annotations"][1].update(bbox=[1, 2]), r"annotations\[1\]: bbox is \[1, 2\], not x, y, w, h"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused_with_the_record(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as error:
        opened(changed(tmp_path, change))
    assert "\n" not in str(error.value)


def test_a_bad_object_makes_a_bad_pair(tmp_path):
    benchmark = opened(
        changed(tmp_path, lambda c: c["annotations"][1]["keypoints"].__setitem__(6, float("nan")))
    )
    with pytest.raises(
        UserError, match=r"own.json, annotations\[0\] and annotations\[1\]: a key-point is NaN"
    ):
        benchmark[0]
    assert benchmark[1]["n_pts"] == 8


def test_images_are_found_below_the_file_and_in_a_given_folder(own, tmp_path):
    assert opened(own).pairs[0].src_key == "images/cat_0.jpg"
    elsewhere = shutil.move(tmp_path / "images", tmp_path / "elsewhere")
    (elsewhere / "cat_0.jpg").rename(elsewhere / "CAT_0.JPG")
    assert opened(own, images=elsewhere).pairs[0].src_key == "CAT_0.JPG"
    shutil.copytree(elsewhere, tmp_path / "copy")
    with pytest.raises(UserError, match=r"both could be the image '.*jpg', use --images"):
        opened(own)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_annotations_of_a_turned_image_mean_the_image_as_shown(tmp_path, orientation):
    """Annotation programs show images upright; the size says where one did not."""
    turns = [
        None,
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM,
    ]
    turns += [
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_90,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_270,
    ]
    content = tiny_own.coco(tmp_path)
    path = tmp_path / "images" / "cat_0.jpg"
    wide = Image.open(path).convert("RGB").resize((90, 60))
    wide.save(tmp_path / "plain.png")
    turn, exif = turns[orientation - 1], Image.Exif()
    exif[0x0112] = orientation
    path.unlink()
    (wide if turn is None else wide.transpose(turn)).save(tmp_path / "images" / "cat_0.png", exif=exif)
    first = content["images"][0]
    first |= {"file_name": "cat_0.png", "width": 90, "height": 60}
    benchmark = opened(tiny_own.make_coco(tmp_path, content))
    plain = opened(tiny_own.make_coco(tmp_path, content))
    plain.root = tmp_path
    assert benchmark.size("images/cat_0.png") == (90, 60)
    assert torch.equal(benchmark.image("images/cat_0.png"), plain.image("plain.png"))

    first |= {"width": 60, "height": 90}
    stored = opened(tiny_own.make_coco(tmp_path, content))
    if orientation > 4:
        assert stored.size("images/cat_0.png") == (60, 90)
        assert not torch.equal(stored.image("images/cat_0.png"), plain.image("plain.png"))
    else:
        with pytest.raises(
            UserError, match=r"cat_0.png: the image has 90×60 pixels, but was annotated with 60×90"
        ):
            stored[0]


@needs_coco
@pytest.mark.parametrize(("name", "pairs", "points"), [("animalpose", 2, 15), ("zebra", 2, 9)])
def test_real_files_are_read(name, pairs, points):
    benchmark = opened(COCO / name / f"test_{name}.json")
    assert (len(benchmark), benchmark[0]["n_pts"], benchmark.thres) == (pairs, points, "bbox")


@needs_coco
def test_a_file_without_a_pair_names_the_poor_categories():
    with pytest.raises(
        UserError,
        match=r"no pair of antelope \(1 object\), jaguar \(1 object\), 52 more categories \(no object\)",
    ):
        opened(COCO / "ap10k" / "test_ap10k.json")


# Tables


def test_a_table_gives_its_pairs(tmp_path):
    benchmark = opened(tiny_own.make_table(tmp_path))
    assert [pair.line for pair in benchmark.pairs] == [
        2,
        7,
        12,
        17,
    ]  # the first lines; other columns are ignored
    assert [benchmark[i]["category"] for i in range(4)] == ["cat", "all", "cat", "dog"]
    sample, (source, target) = benchmark[0], tiny.views("cat")[:2]
    for kps, view in ((sample["src_kps"], source), (sample["trg_kps"], target)):
        shown = view.points[[0, 2, 4, 6, 8, 1, 3, 5, 7, 9]] * 64 / view.image.size
        np.testing.assert_allclose(kps.T, shown, rtol=1e-5)
    assert benchmark.thres == "bbox"
    assert opened(tiny_own.make_table(tmp_path, boxes=False)).thres == "img"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("target_y", "y", "pairs.csv, line 1: the list has no column target_y"),
        ("images/cat_0.jpg", " ", "pairs.csv, line 2: it does not name both images"),
        ("images/cat_0.jpg", "images/none.jpg", "pairs.csv, line 2: .*none.jpg: the image is missing"),
        (r"jpg,[\d.]+,", "jpg,x,", "pairs.csv, line 2: 'x' is not a list of numbers"),
        (r"jpg,[\d.]+,", "jpg,1;2,", "pairs.csv, line 2: a coordinate is not one number"),
        (r",[\d.]+\n", ",\n", "pairs.csv, line 2: a box has all of x1,y1,x2,y2 or none"),
        (r"jpg,[\d.]+,", "jpg,inf,", "pairs.csv, line 2: a key-point is NaN, infinite"),
    ],
)
def test_bad_tables_are_named_by_line(tmp_path, old, new, message):
    path = tiny_own.make_table(tmp_path)
    path.write_text(re.sub(old, new, path.read_text(), count=1))
    with pytest.raises(UserError, match=message):
        opened(path)[0]


def test_a_pair_of_two_splits_is_in_none(tmp_path):
    path = tiny_own.make_table(tmp_path, pairs=24)
    found = {split: opened(path, split, val_share=0.5) for split in ("trn", "val")}
    assert not images(found["trn"]) & images(found["val"])
    left = 24 - sum(map(len, found.values()))
    assert left
    assert all(f"{left} of 24 pairs have images of two splits" in b.notes[1] for b in found.values())
    with pytest.raises(UserError, match=r"no pair in split val .* another --val-share, or three files"):
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


# Training and testing

RUN = "--img-side 64 --workers 0 --device cpu"


@pytest.mark.parametrize("supervision", ["strong", "weak"])
def test_training_and_then_testing_says_which_images_were_trained_on(
    tmp_path, supervision, capsys, monkeypatch
):
    monkeypatch.setattr("dhpf.report.runs.report_training", lambda *_: None)
    monkeypatch.setattr("dhpf.programs.testing.report_test", lambda *_: None)
    path = (
        tiny_own.make_coco(tmp_path) if supervision == "strong" else tiny_own.make_table(tmp_path, pairs=24)
    )
    name = "coco --pairs 4" if supervision == "strong" else "table"
    data = f"--benchmark {name} --datapath {path} --val-share 0.5 {RUN}"
    train.main(f"{data} --supervision {supervision} --bsz 4 --niter 1 --logpath {tmp_path / 'run'}".split())
    whole, trained = (
        opened(path, pairs=4) if supervision == "strong" else opened(path),
        opened(path, "trn", val_share=0.5),
    )
    seen = images(trained)
    number = sum(pair.src_key in seen or pair.trg_key in seen for pair in whole.pairs)
    capsys.readouterr()
    load = f"--load {tmp_path / 'run' / 'best_model.pt'}"
    test.main(f"{data} {load} --logpath {tmp_path / 'test'}".split())
    assert f"{number} of {len(whole)} pairs show an image of the training" in capsys.readouterr().out
    figures = json.loads((tmp_path / "test" / "results.json").read_text())["figures"]
    assert figures["without_leaked"][0]["n_pairs"] == len(whole) - number
    assert not any(figure["paper"] for figure in figures["totals"])

    (tmp_path / whole.pairs[0].src_key).unlink()
    test.main(f"{data} {load} --on-bad-pair skip --logpath {tmp_path / 'skip'}".split())
    skipped = json.loads((tmp_path / "skip" / "results.json").read_text())["options"]["skipped"]
    assert skipped
    assert all(Path(whole.pairs[0].src_key).name in pair for pair in skipped)

    (tmp_path / "run" / "training_images.txt").unlink()
    test.main(f"{data} {load} --on-bad-pair skip --logpath {tmp_path / 'unknown'}".split())
    assert "leak: unknown, there is no record of the images" in capsys.readouterr().out
    assert "without_leaked" not in json.loads((tmp_path / "unknown" / "results.json").read_text())["figures"]


def test_a_rescored_table_keeps_the_threshold_of_its_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dhpf.programs.testing.report_test", lambda *_: None)
    path = changed(tmp_path, lambda c: c["annotations"][0].pop("bbox"))
    test.main(f"--benchmark coco --pairs 2 --datapath {path} --raw {RUN} --logpath {tmp_path / 't'}".split())
    tested = capsys.readouterr().out
    test.main(["--from-predictions", str(tmp_path / "t" / "predictions.csv.gz")])
    rescored = capsys.readouterr().out
    assert "threshold img" in rescored
    assert rescored in tested


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--benchmark pfpascal --pairs 3", "--pairs: benchmark pfpascal has no use for it"),
        ("--benchmark table --pairs 3", "--pairs: benchmark table has no use for it"),
        ("--benchmark coco --datapath .", "benchmark coco needs a file, this is a folder"),
        ("--benchmark coco --datapath nowhere.json", "nowhere.json: the file cannot be read"),
    ],
)
def test_what_does_not_belong_together_is_refused(options, message, tmp_path, monkeypatch, capsys):
    tiny.make_pfpascal(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        test.main(f"{options} {'' if 'datapath' in options else '--datapath .'} {RUN}".split())
    assert message in capsys.readouterr().err


# AP-10K and SPair-U


def test_ap10k(tmp_path):
    tiny_own.make_ap10k(tmp_path)
    named = {}
    for split in ("trn", "test", "val_cross_species", "test_cross_family"):
        benchmark = open_benchmark("ap10k", tmp_path, split, img_side=64)
        named[split] = benchmark.categories
        assert [pair.file for pair in benchmark.pairs] == sorted(pair.file for pair in benchmark.pairs)
        assert (len(benchmark), benchmark.thres, benchmark.paper) == (6, "bbox", {})
    species, family = ("dog", "king cheetah"), ("Canidae", "Felidae")
    assert named == dict(zip(named, (species, species, family, ("all",)), strict=True))
    sample = open_benchmark("ap10k", tmp_path, "test", img_side=64)[0]
    assert sample["src_key"] == "JPEGImages/Felidae/king cheetah/000000000000.jpg"
    source, target = tiny.views("king cheetah")[:2]
    assert sample["n_pts"] == 8
    expected = np.delete(source.points, [0, 1], axis=0) * 64 / source.image.size
    np.testing.assert_allclose(sample["src_kps"][:, :8].T, expected, rtol=1e-5)
    box = np.array(target.box) * 64 / np.tile(target.image.size, 2)
    assert sample["pckthres"] == pytest.approx(max(box[2] - box[0], box[3] - box[1]), rel=1e-5)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("PairAnnotation/test/0-1:king cheetah.json", "{}", r"0-1:king cheetah.json: src_json_path is None"),
        ("PairAnnotation/test/0-1:king cheetah.json", "[", "0-1:king cheetah.json, line 1: not JSON"),
        ("PairAnnotation/test/0.json", "{}", "test/0.json: its name is not of the form"),
        ("ImageAnnotation/Felidae/king cheetah/000000000001.json", "[]", "01.json: it is no annotation"),
        ("ImageAnnotation/Felidae/king cheetah/000000000001.json", '{"bbox": [1, 2, 3]}', "01.json: bbox is"),
        ("ImageAnnotation/Felidae/king cheetah/000000000001.json", '{"bbox": []}', "01.json: .*no box"),
    ],
)
def test_bad_files_of_ap10k_are_named(tmp_path, file, content, message):
    tiny_own.make_ap10k(tmp_path)
    (tmp_path / "ap-10k" / file).write_text(content)
    with pytest.raises(UserError, match=message):
        open_benchmark("ap10k", tmp_path, "test", img_side=64)[0]


def test_spairu(tmp_path):
    tiny_own.make_spairu(tmp_path)
    benchmark = open_benchmark("spairu", tmp_path, "test", img_side=64)
    assert len(benchmark) == 4
    assert benchmark.notes[1:] == ["4 of 8 listed pairs have no annotation and are left out"]
    assert (benchmark[0]["n_pts"], benchmark.paper) == (4, {})
    path = tmp_path / "SPair-U" / "PairAnnotation" / "test" / benchmark.pairs[0].file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"src_imname": 3}))
    with pytest.raises(UserError, match="it does not name its images, src_imname and trg_imname"):
        open_benchmark("spairu", tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "address"), [("ap10k", "drive.google.com"), ("spairu", "JamaisVuData/SPair-U.zip")]
)
def test_what_is_missing_is_named_with_its_address_where_downloads_are_off(tmp_path, name, address):
    with pytest.raises(UserError, match=f"{tmp_path}/.*--no-download.*{address}"):
        open_benchmark(name, tmp_path, "test")


def test_verify_knows_all_of_it(tmp_path, capsys):
    tiny_own.make_ap10k(tmp_path)
    tiny_own.make_spairu(tmp_path)
    path = tiny_own.make_coco(tmp_path)
    data = {"ap10k": tmp_path, "spairu": tmp_path, "coco": path, "table": tiny_own.make_table(tmp_path)}
    for name, place in data.items():
        assert verify.main(["--benchmark", name, "--datapath", str(place)]) == 0, name
        assert re.search(rf"{name}: \d+ pairs, \d+ images, no problems", capsys.readouterr().out)
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"][6] = 1000
    tiny_own.make_coco(tmp_path, content)
    (tmp_path / "images" / "dog_1.jpg").write_bytes(b"")
    assert (
        verify.main(["--benchmark", "coco", "--datapath", str(path), "--images", str(tmp_path / "images")])
        == 1
    )
    told = capsys.readouterr().out
    assert "dog_1.jpg: the image cannot be decoded" in told
    assert "4 pairs have key-points outside their image" in told
