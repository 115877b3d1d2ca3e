"""Matching of one's own images: points land where they should, in pixels of the images as their files show them."""

import io
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.data.synthetic import PHOTOGRAPHS
from dhpf.matching.matcher import Matcher, grid_points
from dhpf.model.ablation import Ablation
from dhpf.model.transfer import confident_targets
from tests.helpers.models import draw_learner

ROTATED_RIGHT, MIRRORED_AND_ROTATED = 6, 7  # EXIF orientations


def load(**options: object) -> Matcher:
    return Matcher.load(img_side=64, device="cpu", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return load()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(PHOTOGRAPHS / "astronaut.png").convert("RGB")


def test_mutual_matches_are_those_that_come_back(matcher: Matcher, photo: Image.Image) -> None:
    points = grid_points(7, photo.size)
    with_itself = matcher.match(photo, photo, points)
    assert len(with_itself.mutual().points) == 49
    other = photo.transpose(Image.Transpose.ROTATE_90)
    found = matcher.match(photo, other, points)
    mutual = found.mutual()
    assert 0 < len(mutual.points) < 49
    chosen = [tuple(point) in {tuple(p) for p in mutual.source} for point in found.source]
    assert mutual.confidence.tolist() == found.confidence[chosen].tolist()
    assert len(found.at_least(1.1).mutual().points) == 0


# What cannot be matched


@pytest.mark.parametrize("side", [66, 241, 20])
def test_a_side_that_the_grid_does_not_divide_is_refused(matcher: Matcher, side: int) -> None:
    with pytest.raises(UserError, match=f"{side}×{side}"):
        Matcher(matcher.model, "a model", side)
    with pytest.raises(UserError, match=f"{side}×{side}"):
        matcher.model.encode(torch.zeros(1, 3, side, side))


def test_features_of_different_models_sides_or_kinds_are_not_matched(
    matcher: Matcher, photo: Image.Image
) -> None:
    encoded, points = matcher.encode(photo), [(10, 20)]
    larger = Matcher(matcher.model, "the same model", 80).encode(photo)
    with pytest.raises(UserError, match=r"64.*80"):
        matcher.match(encoded, larger, points)
    other = load()
    with pytest.raises(UserError):
        other.match(encoded, encoded, points)
    raw = other.encode(photo)
    other.model.ablate(Ablation())
    with pytest.raises(UserError):
        other.match(raw, other.encode(photo), points)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 5, 3)),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        torch.full((3, 5, 5), 2.0),
    ],
)
def test_an_array_that_is_no_image_is_refused(matcher: Matcher, array: NDArray[np.uint8]) -> None:
    with pytest.raises(UserError, match="uint8"):
        matcher.encode(array)


@pytest.mark.parametrize("points", [[], [1, 2], [(1, 2, 3)], [("a", "b")], [(1, 2), (3,)], [(1, np.nan)]])
def test_points_that_are_none_are_refused(matcher: Matcher, photo: Image.Image, points: object) -> None:
    with pytest.raises(UserError):
        matcher.match(photo, photo, points)  # type: ignore[arg-type]


# What is loaded


def test_a_name_that_is_none_is_answered_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="efficientnet_lite0"):
        load(model="efficientnet_lite")
    with pytest.raises(UserError, match=r"none/best_model\.pt"):
        load(model=tmp_path / "none" / "best_model.pt")


def test_a_run_folder_and_the_command_lines_names_are_taken(tmp_path: Path) -> None:
    torch.save(draw_learner("efficientnet_lite0"), tmp_path / "best_model.pt")
    assert not load(model=tmp_path).model.differences
    assert load(model=str(tmp_path), raw=True, layers=[9, 3]).model.ablation == Ablation((3, 9), raw=True)
    assert load(model=tmp_path, soft_gates=True).model.ablation == Ablation(soft=True)
    assert load(backbone="timm:resnet18", backbone_weights="random").model.backbone.name == "timm:resnet18"
    backbone = load(backbone_layers=[14, 0], backbone_side=128).model.backbone
    assert (backbone.blocks, backbone.input_size) == ((0, 14), 128)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "efficientnet_lite0", "backbone": "resnet50"}, "resnet50"),
        ({"soft_gates": True}, "--soft-gates"),
        ({"layers": [15]}, "--layers 15"),
        ({"layers": [-1]}, "--layers -1"),
        ({"backbone_layers": [-1]}, "block -1"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        load(**options)


def test_a_matcher_moves_and_is_pickled(matcher: Matcher, photo: Image.Image) -> None:
    assert matcher.to("cpu") is matcher
    with pytest.raises(UserError, match="nowhere"):
        matcher.to("nowhere")
    for one in (matcher, load(model="timm:resnet18", backbone_weights="random")):
        found = one.match(photo, photo, [(10, 20)])
        again, encoded = pickle.loads(pickle.dumps((one, found.images[0])))
        np.testing.assert_array_equal(again.match(encoded, photo, [(10, 20)]).points, found.points)


# Exact warps


class Scene(NamedTuple):
    """A source in landscape, its warp in portrait, points n×2 of the source and where they truly are."""

    source: Image.Image
    target: Image.Image
    points: NDArray[np.float64]
    true: NDArray[np.float64]


@pytest.fixture(scope="module")
def scene(photo: Image.Image) -> Scene:
    """Turned by -10° and scaled by 0.8 about the middle, which comes to the middle of the target."""
    source, size = photo.crop((40, 0, 472, 330)), (330, 420)
    middles = np.array(source.size) / 2, np.array(size) / 2
    angle = np.deg2rad(-10)
    turn = 0.8 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # PIL maps pixels of the target to those of the source: (x, y) to (ax + by + c, dx + ey + f).
    back = np.linalg.inv(turn)
    coefficients = np.column_stack([back, middles[0] - back @ middles[1]]).flatten().tolist()
    target = source.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    points = grid_points(8, source.size)[[k for k in range(64) if 0 < k % 8 < 7 and 0 < k // 8 < 7]]
    return Scene(source, target, points, (points - middles[0]) @ turn.T + middles[1])


def test_points_of_a_warped_photograph_land_within_a_few_original_pixels(scene: Scene) -> None:
    found = Matcher.load(device="cpu").match(scene.source, scene.target, scene.points)
    cell = 4 * np.array(scene.target.size) / 240
    off = np.abs(found.points - scene.true) / cell
    assert np.median(off) < 0.6
    assert np.quantile(off, 0.9) < 1.5
    assert found.confidence.mean() > 0.7
    assert found.layers == tuple(range(15))

    flow = found.flow[tuple(scene.points[:, ::-1].round().astype(int).T)]
    assert np.quantile(np.abs(flow - scene.true) / cell, 0.9) < 2
    back = np.asarray(found.warped())
    assert back.shape == (*scene.source.size[::-1], 4)
    seen = back[..., 3] == 255
    assert 0.7 < seen.mean() < 1
    assert not back[~seen].any()  # transparent where the target does not reach

    def difference(image: Image.Image) -> float:
        pixels = np.asarray(image.convert("RGB"), float) - np.asarray(scene.source, float)
        return float(np.abs(pixels)[seen].mean())

    assert difference(found.warped()) < 0.5 * difference(scene.target.resize(scene.source.size))


def test_predictions_stay_inside_the_target(matcher: Matcher, photo: Image.Image) -> None:
    source, target = photo.crop((0, 0, 400, 300)), photo.crop((100, 50, 400, 300))
    corners = [(0, 0), (400, 0), (0, 300), (400, 300), (200, 0), (0, 150)]
    found = matcher.match(source, target, corners)
    assert ((found.points >= 0) & (found.points <= target.size)).all()


# Images


@pytest.fixture
def files(tmp_path: Path, photo: Image.Image) -> tuple[Path, Path]:
    """Images of 300×200 and of 240×200 pixels that show parts of the same."""
    photo.crop((60, 0, 460, 267)).resize((300, 200)).save(tmp_path / "a.png")
    photo.crop((40, 0, 400, 300)).resize((240, 200)).save(tmp_path / "b.png")
    return tmp_path / "a.png", tmp_path / "b.png"


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(ROTATED_RIGHT, Image.Transpose.ROTATE_90), (MIRRORED_AND_ROTATED, Image.Transpose.TRANSVERSE)],
)
def test_a_file_says_how_it_was_held(
    files: tuple[Path, Path], matcher: Matcher, orientation: int, stored: Image.Transpose
) -> None:
    """The same picture stored rotated with an EXIF orientation: the same points, in the picture as it is shown."""
    upright, other = files
    held = upright.with_name("held.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(upright) as picture:
        picture.transpose(stored).save(held, exif=exif)
    points = grid_points(4, (300, 200))
    for pair, turned in (((upright, other), (held, other)), ((other, upright), (other, held))):
        at = points if pair[1] == other else points * 0.8
        expected, found = (matcher.match(*ends, at) for ends in (pair, turned))
        np.testing.assert_array_equal(found.points, expected.points)
        np.testing.assert_array_equal(found.confidence, expected.confidence)
    assert matcher.encode(held).image.size == (300, 200)


def test_paths_pil_images_arrays_and_encoded_images_are_the_same(
    files: tuple[Path, Path], matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, (path, other) = grid_points(3, (300, 200)), files
    encoded = matcher.encode(other)
    with Image.open(path) as image:
        image.load()
    tensor = torch.tensor(np.asarray(image)).permute(2, 0, 1)
    same = [path, str(path), image, np.asarray(image), tensor, tensor / 255]
    found = [matcher.match(each, encoded, points).points for each in same]
    grey = image.convert("L")
    found_grey = [matcher.match(each, encoded, points).points for each in (grey, np.asarray(grey))]
    source = matcher.encode(image)
    monkeypatch.setattr(matcher.model, "encode", pytest.fail)  # what was encoded is not encoded again
    for each in [*found, matcher.match(source, encoded, points).points]:
        np.testing.assert_array_equal(each, found[0])
    np.testing.assert_array_equal(*found_grey)


def test_several_targets_are_matched_and_a_grid_is_asked_for_where_no_points_are_given(
    files: tuple[Path, Path], matcher: Matcher
) -> None:
    one, other = matcher.match(files[0], [files[1], files[0]])
    np.testing.assert_array_equal(one.points, matcher.match(*files, grid_points(6, (300, 200))).points)
    assert other.images[1].image.size == (300, 200)


# What was found


def test_what_was_found_is_shown_in_a_line_and_as_a_picture(
    files: tuple[Path, Path], matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = matcher.match(*files, [(10, 20), (30, 40)])
    texts = [repr(x) for x in (found, found.images[0], matcher)]
    assert max(map(len, texts)) < 200
    assert all(part in text for part, text in zip(("2 points", "300", "raw features"), texts, strict=True))
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image))
    found.show()
    with Image.open(io.BytesIO(found._repr_png_())) as picture:
        assert picture.size == shown[0].size


def test_flow_displacement_table_and_picture_are_saved(
    files: tuple[Path, Path], matcher: Matcher, tmp_path: Path
) -> None:
    found = matcher.match(*files, [(10, 20)])
    for suffix in ("png", "pdf", "jpg", "csv", "npy", "flo"):
        found.save(tmp_path / "new" / f"found.{suffix}")
    with Image.open(tmp_path / "new" / "found.jpg") as picture:
        assert picture.width > picture.height
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "found.npy"), found.flow)
    moved = np.fromfile(tmp_path / "new" / "found.flo", "<f4", offset=12).reshape(200, 300, 2)
    np.testing.assert_array_equal(moved, found.displacement)
    np.testing.assert_allclose(found.flow[40, 50], moved[40, 50] + (50, 40), atol=1e-4)
    assert (tmp_path / "new" / "found.flo").read_bytes()[:12] == b"PIEH\x2c\x01\0\0\xc8\0\0\0"
    with pytest.raises(UserError, match=r"found\.tiff"):
        found.save(str(tmp_path / "found.tiff"))


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
