"""The synthetic benchmark: exact key-points, sensible samples, the same pair in any worker and any order."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dhpf.data import synthetic
from dhpf.data.synthetic import (
    BACKGROUNDS,
    OBJECTS,
    Scene,
    Synthetic,
    as_image,
    sample,
)

SIDE = 240


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().mean())


def mismatch(scenes: list[Scene], dx: int = 0, dy: int = 0) -> float:
    """How unlike the two images are at the key-points, the target's moved by an offset."""
    unlike = []
    for scene in scenes:
        images = [torch.from_numpy(np.array(im) / 255).permute(2, 0, 1).float() for im in scene.images]
        ends = scene.kps[0], scene.kps[1] + np.array([[dx], [dy]])
        unlike.append(difference(*(sample(im, kps[:, None]) for im, kps in zip(images, ends, strict=True))))
    return float(np.mean(unlike))


def test_both_images_show_the_same_at_the_key_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """With backgrounds and occluders, but one light: a hidden or misplaced key-point would differ."""
    monkeypatch.setattr(synthetic, "photographed", lambda _, image: as_image(image))
    scenes = [
        synthetic.draw_scene(rng(i), name, BACKGROUNDS["trn"], SIDE)
        for i, name in enumerate(OBJECTS["test"] * 2)
    ]
    assert mismatch(scenes) < 0.045
    assert min(mismatch(scenes, dx, dy) for dx, dy in ((6, 0), (-6, 0), (0, 6), (0, -6))) > 0.12


def test_pairs_are_what_they_were() -> None:
    """Figures on them in the documents and in run folders stay comparable."""
    sample = Synthetic("anywhere", "test")[17]
    np.testing.assert_allclose(sample["src_kps"][:, 0], [133.90675, 77.27088], rtol=1e-6)
    np.testing.assert_allclose(sample["trg_kps"][:, 0], [80, 81], rtol=1e-6)
    assert float(sample["src_img"].mean()) == pytest.approx(0.674335, rel=1e-4)


def test_pairs_are_the_same_in_any_worker_and_any_order() -> None:
    benchmark = Synthetic("anywhere", "val")
    chosen = [0, 3, 5, 8]
    in_turn = [benchmark[i] for i in chosen]
    synthetic.draw.cache_clear()
    benchmark = pickle.loads(pickle.dumps(benchmark))
    loader = DataLoader(benchmark, batch_size=None, sampler=chosen[::-1], num_workers=2)
    for first, second in zip(in_turn[::-1], loader, strict=True):
        for name, value in first.items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(second[name]), name)
