"""match.py: points, images and folders that it takes, and what it writes."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dhpf.data.synthetic import PHOTOGRAPHS
from dhpf.matching.matcher import Matcher, grid_points
from tests.helpers.commands import refused, run, succeed
from tests.helpers.models import draw_learner

TINY = "--img-side 64 --device cpu"
COLUMNS = ["source_x", "source_y", "target_x", "target_y", "confidence"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a.png of 300×200 pixels, and b.jpg and c.png in others/."""
    photo = Image.open(PHOTOGRAPHS / "astronaut.png").convert("RGB")
    (tmp_path / "others").mkdir()
    photo.crop((60, 0, 460, 267)).resize((300, 200)).save(tmp_path / "a.png")
    photo.crop((80, 10, 420, 300)).resize((170, 145)).save(tmp_path / "others" / "b.jpg", quality=95)
    photo.crop((40, 0, 400, 300)).resize((240, 200)).save(tmp_path / "others" / "c.png")
    (tmp_path / "others" / "notes.txt").write_text("no image")
    return tmp_path


def test_one_source_against_a_folder_and_a_file(home: Path) -> None:
    """Every target gets its four files, equal names are counted, and the output says what matched."""
    (home / "c.jpg").write_bytes((home / "others" / "b.jpg").read_bytes())
    out = succeed(home, f"match.py a.png others c.jpg --grid 4 --output out {TINY}").out
    assert out.startswith("efficientnet_lite0, raw features")
    endings = (".json", ".csv", "-matches.png", "-warped.png")
    expected = {f"{name}{ending}" for name in ("a-b", "a-c", "a-c-2") for ending in endings}
    assert {path.name for path in (home / "out").iterdir()} == expected

    content = json.loads((home / "out" / "a-b.json").read_text())
    ends = {"source": ("a.png", 300, 200), "target": ("others/b.jpg", 170, 145)}
    for end, (file, width, height) in ends.items():
        path = str(home.resolve() / file)
        assert content[end] == {"file": file, "path": path, "width": width, "height": height}
    table = pd.read_csv(home / "out" / "a-b.csv")
    assert table.columns.tolist() == COLUMNS
    np.testing.assert_array_equal(table[COLUMNS[:2]], grid_points(4, (300, 200)))
    np.testing.assert_array_equal(
        table, [[*m["source"], *m["target"], m["confidence"]] for m in content["matches"]]
    )
    direct = Matcher.load(img_side=64, device="cpu")
    found = direct.match(home / "a.png", home / "others" / "b.jpg", grid_points(4, (300, 200)))
    np.testing.assert_allclose(table[COLUMNS[2:4]], found.points, atol=1e-3)
    with Image.open(home / "out" / "a-b-warped.png") as picture:
        assert picture.size == (300, 200)


def test_points_come_from_an_option_a_file_or_a_pipe(
    home: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "points.csv").write_text("x,y\n10,20\n\n30.5, 40\n50 60\n")
    succeed(home, f"match.py a.png a.png --points-file points.csv --output out {TINY}")
    table = pd.read_csv(home / "out" / "a-a.csv")
    assert table.iloc[:, :2].to_numpy().tolist() == [[10, 20], [30.5, 40], [50, 60]]
    np.testing.assert_allclose(table.iloc[:, 2:4], table.iloc[:, :2], atol=300 / 16)  # a cell
    shown = succeed(home, f"match.py a.png a.png --points 10,20 --output one {TINY}").out
    assert pd.read_csv(home / "one" / "a-a.csv").iloc[0].equals(table.iloc[0])
    # What is printed can be pasted, or read by programs.
    x, y = table.iloc[0, 2:4]
    assert re.search(rf"^ *10,20 +{x:.1f},{y:.1f} +\d\.\d\d$", shown, re.M)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"10,20\n30.5;40\n")))
    out = succeed(home, f"match.py a.png others --points - --json --output out --no-warp {TINY}").out
    contents = [json.loads(line) for line in out.splitlines()]
    assert [Path(content["target"]["file"]).name for content in contents] == ["b.jpg", "c.png"]
    assert [match["source"] for match in contents[0]["matches"]] == [[10, 20], [30.5, 40]]
    assert contents[1] == json.loads((home / "out" / "a-c.json").read_text())


def test_bfloat16_finds_nearly_the_same(home: Path, undrawn: None) -> None:
    tables = {}
    for precision in ("fp32", "bf16"):
        succeed(home, f"match.py a.png others/b.jpg --precision {precision} --output {precision} {TINY}")
        assert json.loads((home / precision / "a-b.json").read_text())["precision"] == precision
        tables[precision] = pd.read_csv(home / precision / "a-b.csv")[["target_x", "target_y"]].to_numpy()
    off = np.linalg.norm(tables["fp32"] - tables["bf16"], axis=1)
    assert off.any()
    assert np.median(off) < 170 / 16  # a cell


def test_a_checkpoint_brings_its_gates(home: Path, undrawn: None) -> None:
    """The layers that its gates select, or those that are asked for."""
    torch.save(draw_learner("efficientnet_lite0"), home / "learned.pt")
    pair = f"match.py a.png others/c.png {TINY} --no-warp"
    out = succeed(home, f"{pair} --load learned.pt --output out").out
    assert out.startswith("efficientnet_lite0 with learned.pt")
    layers = json.loads((home / "out" / "a-c.json").read_text())["layers"]
    assert 0 < len(layers) < 15
    assert f"({len(layers)} of 15)" in out
    succeed(home, f"{pair} --raw --layers 9,13 --no-hough --output fixed")
    assert json.loads((home / "fixed" / "a-c.json").read_text())["layers"] == [9, 13]


def test_unsure_points_can_be_left_out(home: Path, undrawn: None) -> None:
    pair = f"match.py a.png others/c.png {TINY} --no-warp"
    succeed(home, f"{pair} --grid 5 --output all")
    every = pd.read_csv(home / "all" / "a-c.csv")
    least = every.confidence.nlargest(13).tail(2).mean()
    succeed(home, f"{pair} --grid 5 --min-confidence {least} --output some")
    sure = pd.read_csv(home / "some" / "a-c.csv")
    pd.testing.assert_frame_equal(sure, every[every.confidence >= least].reset_index(drop=True))


def test_a_blank_image_has_no_confidence(home: Path, undrawn: None) -> None:
    Image.new("RGB", (90, 60)).save(home / "black.png")
    outcome = succeed(home, f"match.py black.png others/c.png --grid 2 --output out {TINY}")
    assert outcome.err.startswith("warning: black.png")
    content = json.loads((home / "out" / "black-c.json").read_text())
    assert [match["confidence"] for match in content["matches"]] == [None] * 4
    assert pd.read_csv(home / "out" / "black-c.csv").confidence.isna().all()


def test_a_folder_of_foreign_and_damaged_files_is_matched_but_for_those(home: Path, undrawn: None) -> None:
    """What is no picture is passed over, a picture that cannot be read is named at the end: exit code 1."""
    others = home / "others"
    for name in (".DS_Store", "._b.jpg", "film.mpg", "page.pdf", ".hidden.png"):
        (others / name).write_bytes(b"no picture")
    (others / "damaged.jpg").write_bytes((others / "b.jpg").read_bytes()[:300])
    (others / "empty.png").write_bytes(b"")
    (others / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    outcome = run(home, f"match.py a.png others --grid 2 --output out --no-warp {TINY}")
    assert outcome.code == 1
    named = re.findall(r"others/(\S+): ", outcome.err)
    assert named == ["damaged.jpg", "empty.png", "phone.heic"], outcome.err
    assert len(outcome.err.splitlines()) == 3
    assert {path.name for path in (home / "out").glob("*.json")} == {"a-b.json", "a-c.json"}
    assert not list((home / "out").glob("*-warped.png"))


def test_results_of_another_pair_are_never_overwritten(home: Path, undrawn: None) -> None:
    """cat/001.jpg and dog/001.jpg, in one call or two; the same pair again is; names of any length have room."""
    for name in ("cat", "dog"):
        (home / name).mkdir()
        for stem in ("001", "n" * 240):
            (home / name / f"{stem}.jpg").write_bytes((home / "others" / "b.jpg").read_bytes())
    shape = f"--output out --no-warp --grid 2 {TINY}"
    (home / "out").mkdir()
    (home / "out" / "a-001.csv").write_text("mine")
    succeed(home, f"match.py a.png cat/001.jpg {shape}")
    succeed(home, f"match.py a.png dog cat/001.jpg {shape}")
    succeed(home, f"match.py a.png {home / 'cat'} {shape}")
    succeed(home, f"match.py a.png cat/001.jpg {shape.replace('2', '3', 1)}")  # other points
    assert len((home / "out" / "a-001-4.csv").read_text().splitlines()) == 10
    (home / "out" / "a-001-4.json").unlink()
    targets = {}
    for path in (home / "out").glob("*.json"):
        targets[path.stem] = json.loads(path.read_text())["target"]["path"].removeprefix(f"{home.resolve()}/")
    assert targets.pop("a-001-2") == "cat/001.jpg"
    assert targets.pop("a-001-3") == "dog/001.jpg"
    assert sorted(targets.values()) == [f"{name}/{'n' * 240}.jpg" for name in ("cat", "dog")]
    assert all(len(name) < 120 for name in targets)
    assert (home / "out" / "a-001.csv").read_text() == "mine"


NEEDS_NO_MODEL = {
    "a.png others/b.jpg --points ten,20": ("--points", "ten,20"),
    "a.png others/b.jpg --points 301,20": ("--points", "301,20", "300×200"),
    "a.png others/b.jpg --points nan,5": ("--points", "nan,5"),
    "a.png others/b.jpg --points-file bad.csv": ("bad.csv", "line 2", "'3'"),
    "a.png others/b.jpg --points-file empty.csv": ("empty.csv",),
    "a.png others/b.jpg --points 1,1 --grid 3": ("--points", "--grid"),
    "a.png others/b.jpg --max-pixels 59999": ("a.png", "59999"),
    "a.png nowhere.jpg": ("nowhere.jpg",),
    "others/notes.txt others/b.jpg": ("notes.txt",),
    "a.png empty": ("empty",),
    "a.png others/b.jpg --layers 15": ("--layers 15",),
}
NEEDS_A_MODEL = {
    "a.png others/notes.txt": ("notes.txt",),
    "a.png others/b.jpg --load others/notes.txt": ("notes.txt",),
    "a.png others/b.jpg --output a.png/x": ("a.png/x",),
}


@pytest.mark.parametrize("arguments", NEEDS_NO_MODEL | NEEDS_A_MODEL)
def test_a_mistake_is_refused_by_name_if_possible_before_a_model_is_loaded(
    home: Path, arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "bad.csv").write_text("1,2\n3\n")
    (home / "empty.csv").write_text("\n")
    (home / "empty").mkdir()
    if arguments in NEEDS_NO_MODEL:
        monkeypatch.setattr("dhpf.model.dhpf.DHPF.__init__", pytest.fail)
    refused(home, f"match.py {arguments} {TINY}", *(NEEDS_NO_MODEL | NEEDS_A_MODEL)[arguments])
