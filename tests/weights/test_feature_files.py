"""Features from files are hyperpixel layers like any, and each image gets its own."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dhpf.common.errors import UserError
from dhpf.matching.matcher import Matcher
from dhpf.model import BACKBONES
from dhpf.weights.feature_files import FeatureFiles, of_whole_image, read_maps
from tests.helpers.commands import TINY, refused, succeed
from tests.helpers.places import ROOT

MAPS = [torch.arange(float(c * h * h)).view(c, h, h) for c, h in ((2, 3), (4, 6))]


@pytest.fixture(scope="module")
def features(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the program of docs/features.md writes for a tiny PF-PASCAL, of images of 64 pixels."""
    folder = tmp_path_factory.mktemp("features")
    code = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "features.md").read_text(), re.S | re.M)[0]
    code = code.replace("../Datasets_DHPF", str(data)).replace('Path("features")', f"Path({str(folder)!r})")
    exec(code.replace("(240, 240)", "(64, 64)"), {})
    return folder


def pck(folder: Path) -> float:
    return json.loads((folder / "results.json").read_text())["figures"]["totals"][0]["value"]


def test_files_of_timm_give_the_figures_of_the_network(features: Path, data: Path, tmp_path: Path) -> None:
    on = f"--benchmark pfpascal --datapath {data} {TINY}"
    succeed(tmp_path, f"test.py {on} --backbone files:{features} --logpath files", reports=True)
    succeed(
        tmp_path, f"test.py {on} --backbone efficientnet_lite0 --backbone-layers 1,3,9,14 --logpath network"
    )
    assert pck(tmp_path / "logs" / "files") == pck(tmp_path / "logs" / "network") > 20


def test_learning_and_searching_on_files(features: Path, data: Path, tmp_path: Path) -> None:
    on = f"--benchmark pfpascal --datapath {data} {TINY}"
    succeed(tmp_path, f"train.py {on} --backbone files:{features} --niter 1 --logpath trained")
    moved = tmp_path / "moved"
    moved.symlink_to(features)
    checkpoint = "logs/trained/best_model.pt"
    for backbone in ("", f"--backbone files:{moved}"):
        succeed(tmp_path, f"test.py {on} --load {checkpoint} {backbone} --logpath tested{len(backbone)}")
    assert len({pck(folder) for folder in tmp_path.glob("logs/tested*")}) == 1
    succeed(
        tmp_path,
        f"search.py {on} --backbone files:{features} --max-layers 2 --logpath searched".replace(
            "--bsz 4", ""
        ),
    )
    assert (tmp_path / "logs" / "searched" / "layers.json").exists()


def test_missing_files_are_named_before_anything_runs(features: Path, data: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    first = sorted(features.rglob("*.npz"))[0]
    (some / first.name).write_bytes(first.read_bytes())
    on = f"--benchmark pfpascal --datapath {data} {TINY} --backbone files:{some}"
    for program in ("test.py", "train.py --niter 1"):
        assert "2008_00000" in refused(tmp_path, f"{program} {on}", f"files:{some}")
    refused(
        tmp_path, f"test.py --benchmark pfpascal --datapath {data} {TINY} --backbone files:nowhere", "nowhere"
    )
    refused(
        tmp_path,
        f"test.py --benchmark pfpascal --datapath {data} {TINY} --features-frame pad",
        "--features-frame",
    )


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
def test_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    named = {"layer10": MAPS[1], "layer2": MAPS[0]}
    if suffix == ".npy":
        np.save(path, MAPS[0].half().numpy())
    elif suffix == ".npz":
        np.savez(path, **{name: m.numpy() for name, m in named.items()})
    elif suffix == ".pt":
        torch.save([m[None] for m in MAPS], path)
    else:
        safetensors.torch.save_file(named, path)
    for found, expected in zip(read_maps(path), MAPS, strict=suffix != ".npy"):
        assert torch.equal(found, expected)
    found = FeatureFiles(tmp_path, padded=False)
    assert found.shapes == ([(2, 3)] if suffix == ".npy" else [(4, 6), (2, 3)])  # sides never grow


@pytest.mark.parametrize(
    "content", [torch.zeros(3, 3), torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), torch.nan), {"a": "b"}]
)
def test_what_is_no_map_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt"):
        FeatureFiles(tmp_path, padded=False)


def test_a_file_is_found_by_its_path_and_by_its_name_where_that_is_unique(tmp_path: Path) -> None:
    for name in ("cat/a", "dog/a", "b.jpg", "cat/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", MAPS[0].numpy())
    files = FeatureFiles(tmp_path, padded=False)
    for image, name in {"JPEGImages/cat/a.jpg": "cat/a", "x/b.jpg": "b.jpg", "x/c.png": "cat/c"}.items():
        assert files.find(image) == tmp_path / f"{name}.npy"
    assert files.find("x/d.jpg") is None
    with pytest.raises(UserError, match=r"bird/a\.jpg"):
        files.find("bird/a.jpg")
    with pytest.raises(UserError, match=r"x/c\.jpg"):
        files.check(["cat/c.jpg", "x/c.jpg"])


def test_the_image_is_cut_out_of_a_padded_map() -> None:
    """A wide image of 8×4 in a map of 8×8: its four rows in the middle, each then stretched to two."""
    padded = torch.zeros(1, 8, 8)
    padded[0, 2:6] = torch.arange(4.0)[:, None]
    whole = of_whole_image(padded, 8, (200, 100))
    assert whole[0, :, 3].tolist() == pytest.approx(
        [-0.25 + 0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 2.25], abs=0.3
    )
    assert torch.allclose(whole[0, 1:7, 0], torch.tensor([0.25, 0.75, 1.25, 1.75, 2.25, 2.75]))
    assert torch.equal(of_whole_image(padded, 8, (100, 100)), padded)


def test_a_matcher_takes_images_by_their_names(features: Path, data: Path) -> None:
    matcher = Matcher.load(f"files:{features}", img_side=64, device="cpu")
    images = sorted((data / "PF-PASCAL").rglob("*_cat.jpg"))[:2]
    found = matcher.match(*images).points
    assert np.isfinite(found).all()
    assert np.array_equal(pickle.loads(pickle.dumps(matcher)).match(*images).points, found)
    with pytest.raises(UserError, match="path"):
        matcher.match(torch.zeros(3, 64, 64), images[0])
    assert BACKBONES[f"files-pad:{features}"].channels == matcher.model.backbone.channels
