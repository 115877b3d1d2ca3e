"""The synthetic benchmark: exact key-points, sensible samples, the same pair in any worker and any order."""

import pickle
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from dhpf.common.errors import UserError
from dhpf.data import synthetic
from dhpf.data.photographs import corners, draw_crop, photograph, sample
from dhpf.data.synthetic import BACKGROUNDS, LENGTHS, MAX_PTS, MIN_PTS, OBJECTS, Scene, Synthetic
from dhpf.data.warp import Points, Warp, draw_warp, pixels

SIDE = 240
PATCH = pixels(9, 9) - 4 - 4j


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def shown_points(warp: Warp, reach: float = 1.2, step: int = 12) -> Points:
    """Pixels of the target frame that show the object."""
    frame = pixels(SIDE, SIDE)[::step, ::step].ravel()
    return frame[np.abs(warp.from_target(frame)) < reach]


def inverted(function: Callable[[Points], Points], values: Points, guess: Points) -> Points:
    """Where a map of the plane takes the values, by Newton's method with numerical derivatives."""
    for _ in range(30):
        x_slope = function(guess + 0.5) - function(guess - 0.5)
        y_slope = function(guess + 0.5j) - function(guess - 0.5j)
        error = values - function(guess)
        determinant = (x_slope.conj() * y_slope).imag
        step_x, step_y = (error.conj() * y_slope).imag, (x_slope.conj() * error).imag
        guess = guess + (step_x + 1j * step_y) / determinant
    return guess


def difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().mean())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32))
def test_the_map_between_the_frames_is_one_to_one_over_the_object(seed: int) -> None:
    warp = draw_warp(rng(seed), SIDE)
    target = shown_points(warp)
    straight = warp.target(warp.from_source(warp.to_source(target)))  # off by the bend alone
    found = inverted(warp.to_source, warp.to_source(target), straight)
    assert np.abs(found - target).max() < 0.05
    assert np.abs(straight - target).max() > 1


@pytest.mark.parametrize("seed", range(4))
def test_patches_around_corresponding_points_agree_once_unwarped(seed: int) -> None:
    photo = photograph("astronaut.png")
    warp, crop, frame = (draw_warp(rng(seed), SIDE), draw_crop(rng(seed), photo, 80, 125), pixels(SIDE, SIDE))
    source, target = (
        sample(photo[:3], crop(0.8 * find(frame))) for find in (warp.from_source, warp.from_target)
    )
    points = shown_points(warp, reach=0.9)
    points = points[[min(p.real, p.imag) > 5 and max(p.real, p.imag) < SIDE - 6 for p in points]]
    patches = points[:, None] + PATCH.ravel()
    unwarped = warp.to_source(patches)
    inside = (
        (unwarped.real > 0) & (unwarped.imag > 0) & (unwarped.real < SIDE - 1) & (unwarped.imag < SIDE - 1)
    ).all(1)
    assert inside.sum() > 20
    expected = sample(target, patches[inside])
    assert difference(sample(source, unwarped[inside]), expected) < 0.015
    assert difference(sample(source, unwarped[inside] + 3), expected) > 0.03


def colours(scene: Scene, offset: complex = 0) -> tuple[Tensor, Tensor]:
    """What the two images show at the key-points, the target's moved by an offset: [3, n, 1] each."""
    source, target = (
        torch.from_numpy(np.array(image) / 255).permute(2, 0, 1).float() for image in scene.images
    )
    return sample(source, scene.kps[0][:, None]), sample(target, scene.kps[1][:, None] + offset)


def mismatch(scenes: list[Scene], offset: complex = 0) -> float:
    return float(np.mean([difference(*colours(scene, offset)) for scene in scenes]))


def test_both_images_show_the_same_at_the_key_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """With backgrounds and occluders, but one light: a hidden or misplaced key-point would differ."""
    monkeypatch.setattr(synthetic, "taken", lambda _, image: image)
    scenes = [
        synthetic.draw_scene(rng(i), name, BACKGROUNDS["trn"], SIDE)
        for i, name in enumerate(OBJECTS["test"] * 2)
    ]
    assert mismatch(scenes) < 0.045
    assert min(mismatch(scenes, offset) for offset in (6, -6, 6j, -6j)) > 0.12


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name], name


@pytest.mark.parametrize("split", LENGTHS)
def test_samples_are_complete_and_consistent(split: str) -> None:
    benchmark = Synthetic("anywhere", split)
    assert len(benchmark) == LENGTHS[split]
    for i in range(0, len(benchmark), len(benchmark) // 4):
        pair = benchmark[i]
        n = pair["n_pts"]
        assert MIN_PTS <= n <= MAX_PTS
        assert f"{pair['category']}." in " ".join(OBJECTS[split])
        for end in ("src", "trg"):
            kps, (x1, y1, x2, y2) = pair[f"{end}_kps"], pair[f"{end}_bbox"]
            assert (kps[:, n:] == -1).all()
            points, low, high = kps[:, :n].T, torch.stack((x1, y1)), torch.stack((x2, y2))
            assert torch.equal(pair[f"{end}_bbox"].clamp(0, SIDE - 1), pair[f"{end}_bbox"])
            assert (low < high).all()
            assert ((points >= low - 1) & (points <= high + 1)).all()
            assert pair[f"{end}_img"].shape == (3, SIDE, SIDE)
            assert pair[f"{end}_size"].tolist() == [SIDE, SIDE]
            assert torch.equal(pair[f"{end}_img"], benchmark.image(pair[f"{end}_key"]))
        x1, y1, x2, y2 = pair["trg_bbox"]
        assert pair["pckthres"] == max(x2 - x1, y2 - y1)


def test_a_warped_pair_is_no_easy_one() -> None:
    """Leaving every key-point where it is gets few of them right."""
    benchmark = Synthetic("anywhere", "test")
    correct = []
    for i in range(0, 48, 6):
        pair = benchmark.annotation(i)
        distance = (pair["src_kps"] - pair["trg_kps"])[:, : pair["n_pts"]].norm(dim=0)
        correct.append(float((distance <= 0.1 * pair["pckthres"]).float().mean()))
    assert np.mean(correct) < 0.3


def test_pairs_are_the_same_in_any_worker_and_any_order() -> None:
    benchmark = Synthetic("anywhere", "val")
    chosen = [0, 3, 5, 8]
    in_turn = [benchmark[i] for i in chosen]
    synthetic.draw.cache_clear()
    benchmark = pickle.loads(pickle.dumps(benchmark))
    assert_same(in_turn[3], benchmark[8])  # the last before the first
    synthetic.draw.cache_clear()
    for workers in (0, 2):
        loader = DataLoader(benchmark, batch_size=None, sampler=chosen, num_workers=workers)
        for first, second in zip(in_turn, loader, strict=True):
            assert_same(first, second)


def test_seeds_splits_and_indices_give_different_pairs() -> None:
    scenes = [synthetic.draw(*key, SIDE) for key in ((0, "test", 0), (1, "test", 0), (0, "test", 3))]
    for first, second in combinations(scenes, 2):
        assert not np.array_equal(first.images[0], second.images[0])
        assert not np.array_equal(first.kps[1], second.kps[1])


def test_the_splits_share_no_photograph() -> None:
    used = {split: {*OBJECTS[split], *BACKGROUNDS[split]} for split in ("trn", "val", "test")}
    for first, second in combinations(used.values(), 2):
        assert not first & second


def test_the_frame_may_have_another_side() -> None:
    pair = Synthetic("anywhere", "test", "img", 120)[0]
    assert pair["trg_img"].shape == (3, 120, 120)
    assert pair["pckthres"] == 120
    assert 60 < pair["trg_kps"].max() < 120


def test_corners_are_seen_salient_and_apart() -> None:
    photo = photograph("camera.png")
    seen = np.zeros(photo.shape[1:], dtype=bool)
    seen[:, :128] = True
    found = corners(photo[3], seen, 10)
    assert len(found) > 5
    assert found.real.max() < 128
    assert min(max(abs((a - b).real), abs((a - b).imag)) for a, b in combinations(found, 2)) > 10


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no split 'large'"):
        Synthetic("anywhere", "large")
    with pytest.raises(UserError, match=r"absent\.png"):
        photograph("absent.png")
    assert isinstance(synthetic.draw(0, "val", 0, SIDE).images[0], Image.Image)
