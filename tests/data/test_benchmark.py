"""Samples: the published program's values, and the rules of frame, threshold and mirroring on tiny benchmarks."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat
from torch.utils.data import DataLoader

from dhpf.common.errors import UserError
from dhpf.data import open_benchmark
from dhpf.data.benchmark import Benchmark
from tests.helpers import tiny
from tests.helpers.places import SHARED
from tests.helpers.tiny import BENCHMARKS

PAIRS = 8
SPLITS = [(name, split) for name, cls in BENCHMARKS.items() for split in cls.splits]
needs_shared = pytest.mark.skipif(
    not (SHARED / "golden" / "datasets.npz").exists(), reason="no reference data"
)


def open_real(name: str, split: str, thres: str = "auto") -> Benchmark:
    return BENCHMARKS[name](SHARED / "data", split, thres)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(SHARED / "golden" / "datasets.npz") as values:
        arrays = dict(values)
    return arrays | json.loads((SHARED / "golden" / "datasets.json").read_text())


@needs_shared
@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_samples_are_those_of_the_published_program(golden, name, split):
    dataset = open_real(name, split)
    assert len(dataset) == golden[f"{name}/{split}"]["length"]
    for i in golden[f"{name}/{split}"]["index"]:
        place = f"{name}/{split}/{i}/"
        facts, sample = golden[place], dataset[i]
        assert sample["category"] == facts["category"]
        # The published program numbers SPair-71k's categories by a folder listing, which here has one entry.
        assert name == "spair" or sample["category_id"] == facts["category_id"]
        assert sample["src_key"].endswith(facts["src"])
        assert sample["trg_key"].endswith(facts["trg"])
        found = {
            **sample,
            "src_img_mean": sample["src_img"].mean((1, 2)),
            "src_img_patch": sample["src_img"][:, 100:104, 100:104],
            "trg_img_patch": sample["trg_img"][:, 100:104, 100:104],
        }
        expected = {key.removeprefix(place): value for key, value in golden.items() if key.startswith(place)}
        for key in expected.keys() - {
            "",
            "src_kpidx",
            "trg_kpidx",
        }:  # the latter are the model's nearest cells
            rtol = 0 if "kp" in key else 1e-6
            atol = 2e-6 if "img" in key else 0
            np.testing.assert_allclose(np.asarray(found[key]), expected[key], rtol, atol, err_msg=key)


@needs_shared
@pytest.mark.parametrize("name", ["pfpascal", "pfwillow", "spair"])
@pytest.mark.parametrize("thres", ["img", "bbox"])
def test_thresholds_are_those_of_the_published_program(golden, name, thres):
    dataset = open_real(name, "test", thres)
    expected = golden[f"{name}/threshold/{thres}"]
    places = (0, len(dataset) // 2, len(dataset) - 1)
    found = [float(dataset.annotation(i)["pckthres"]) for i in places]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_workers_deliver_batches_in_the_contracted_format(whole, name, split):
    dataset = BENCHMARKS[name](whole, split, img_side=96)
    batch = next(iter(DataLoader(dataset, batch_size=8, num_workers=int(split == "test"))))
    assert batch["src_img"].shape == batch["trg_img"].shape == (8, 3, 96, 96)
    assert batch["src_kps"].shape == batch["trg_kps"].shape == (8, 2, dataset.max_pts)
    for key in ("src_img", "src_kps", "trg_kps", "pckthres"):
        assert batch[key].dtype == torch.float32
    assert batch["index"].tolist() == list(range(8))
    assert set(batch["category"]) == {dataset.categories[k] for k in batch["category_id"]}
    for end in ("src", "trg"):
        assert batch[f"{end}_bbox"].isfinite().all() == (name in ("pfpascal", "spair"))
    for kps, n in zip(batch["src_kps"], batch["n_pts"], strict=True):
        assert (kps[:, :n] >= 0).all()
        assert (kps[:, n:] == -1).all()


def rewrite(path: Path, edit: Any) -> None:
    """Passes the rows of a CSV file, header first, through edit."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    tiny.write_csv(path, edit(rows))


def test_training_pairs_with_flip_are_mirrored(datapath):
    flipped = BENCHMARKS["pfpascal"](datapath, "trn", "bbox")[1]
    rewrite(datapath / "PF-PASCAL/trn_pairs.csv", lambda rows: [row[:3] for row in rows])
    plain = BENCHMARKS["pfpascal"](datapath, "trn", "bbox")[1]
    n = plain["n_pts"]
    assert (flipped["flip"], plain["flip"]) == (1, 0)
    for end in ("src", "trg"):
        assert torch.equal(flipped[f"{end}_img"], plain[f"{end}_img"].flip(-1))
        torch.testing.assert_close(flipped[f"{end}_kps"][0, :n], 240 - plain[f"{end}_kps"][0, :n])
        assert torch.equal(flipped[f"{end}_kps"][:, n:], plain[f"{end}_kps"][:, n:])
        assert torch.equal(flipped[f"{end}_kps"][1], plain[f"{end}_kps"][1])
        x1, y1, x2, y2 = plain[f"{end}_bbox"]
        torch.testing.assert_close(flipped[f"{end}_bbox"], torch.stack((240 - x2, y1, 240 - x1, y2)))
    assert flipped["pckthres"] == plain["pckthres"]


def test_only_training_pairs_are_mirrored(datapath):
    rewrite(datapath / "PF-PASCAL/val_pairs.csv", lambda rows: [rows[0], *([*r[:3], 1] for r in rows[1:])])
    dataset = BENCHMARKS["pfpascal"](datapath, "val")
    assert not any(dataset.annotation(i)["flip"] for i in range(len(dataset)))


def test_python_opens_what_the_command_line_does(datapath):
    assert len(open_benchmark("synthetic")) == 48
    for categories in ("cat", ["cat"]):
        data = open_benchmark("pfpascal", str(datapath), "trn", categories=categories)
        assert {(data.categories[pair.category_id], pair.flip) for pair in data.pairs} == {("cat", 0)}
        assert "pfpascal trn" in repr(data)
    with pytest.raises(UserError, match="--val-share"):
        open_benchmark("pfpascal", datapath, val_share=0.5)


def test_key_points_count_where_both_images_have_them(datapath):
    """Image k of the tiny PF-PASCAL lacks key-point k: 8 of 10 are left; then none."""
    dataset = BENCHMARKS["pfpascal"](datapath, "val")
    assert dataset.annotation(0)["n_pts"] == 8
    for path in (datapath / "PF-PASCAL/Annotations/cat").iterdir():
        content = loadmat(path)
        savemat(path, {"kps": np.full((10, 2), np.nan), "bbox": content["bbox"]})
    sample = BENCHMARKS["pfpascal"](datapath, "val", "bbox-kp")[0]
    assert sample["n_pts"] == 0
    assert (sample["src_kps"] == -1).all()
    assert sample["pckthres"] == 0


def test_pairs_that_leak_from_training_are_marked_in_either_order(datapath):
    folder = datapath / "PF-PASCAL"
    names = [f"2008_00000{k}_cat.jpg" for k in range(4)]
    header = ["source_image", "target_image", "class"]
    tiny.write_csv(folder / "trn_pairs.csv", [header, [names[0], names[1], 8], [names[2], names[3], 8]])
    test = [header, [names[0], names[1], 8], [names[3], names[2], 8], [names[0], names[2], 8]]
    tiny.write_csv(folder / "test_pairs.csv", test)
    dataset = BENCHMARKS["pfpascal"](datapath, "test")
    assert [dataset.annotation(i)["leaked"] for i in range(3)] == [1, 1, 0]
    (folder / "trn_pairs.csv").unlink()
    dataset = BENCHMARKS["pfpascal"](datapath, "test")
    assert [dataset.annotation(i)["leaked"] for i in range(3)] == [-1, -1, -1]  # not known


def test_thresholds_and_splits_that_a_benchmark_lacks(whole):
    with pytest.raises(UserError, match="--thres bbox"):
        BENCHMARKS["caltech"](whole, "test", "bbox")
    with pytest.raises(UserError, match="trn"):
        BENCHMARKS["pfwillow"](whole, "trn")
