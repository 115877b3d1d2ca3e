"""Dense flow and warp: the same whatever the tiles."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dhpf.data.synthetic import PHOTOGRAPHS
from dhpf.matching import flow
from dhpf.matching.found import layer_ranges
from dhpf.matching.matcher import Matcher


def test_a_large_picture_is_warped_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = Image.open(PHOTOGRAPHS / "astronaut.png").convert("RGB")
    matcher = Matcher.load(img_side=64, device="cpu")
    source, target = photo.crop((0, 0, 300, 211)), photo.crop((40, 0, 340, 220))
    whole = matcher.match(source, target, [(9, 9)])
    pictures = [np.asarray(whole.warped()).astype(int)]
    assert (whole.flow.dtype, whole.flow.shape) == (np.float32, (211, 300, 2))
    monkeypatch.setattr(flow, "TILE", 70)
    corners = np.zeros((17, 17, 2))
    shapes = [part.shape for _, part in flow.flow_tiles(corners, source.size, target.size)]
    assert shapes == [*[(70, 70, 2)] * 4, (70, 20, 2)] * 3 + [*[(1, 70, 2)] * 4, (1, 20, 2)]
    tiled = replace(whole)  # without what it computed
    pictures.append(np.asarray(tiled.warped()).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    np.testing.assert_allclose(tiled.flow, whole.flow, atol=1e-3)


def test_a_few_outliers_do_not_bend_the_flow() -> None:
    """An image with itself, in a grid of 16×16 cells."""
    cells = flow.sampled_cells(16)
    targets = cells.copy()
    targets[[3, 40, 200]] = 255
    corners = flow.corner_flow(cells, targets, np.ones(len(cells)), 16) * 16
    np.testing.assert_allclose(corners, np.stack(np.meshgrid(*[np.arange(17)] * 2), -1), atol=0.1)


def test_layer_ranges() -> None:
    assert layer_ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert layer_ranges([]) == ""
