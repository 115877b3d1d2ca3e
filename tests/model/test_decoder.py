"""Decoders equal their formulas, written out cell by cell; their names, parameters and place in a model's config."""

import math

import pytest
import torch
from torch import Tensor

from dhpf.common.errors import UserError
from dhpf.model import DECODERS, reference
from dhpf.model.dhpf import DHPF
from dhpf.weights.config import ModelConfig
from tests.helpers.models import Bank, build

SIDE = 12
SPELT = {  # a decoder, and what weighs a score s at a distance (dx, dy) in cells of a grid of 60
    "window-soft-argmax:temperature=0.2,window=15": lambda s, dx, dy: (
        math.exp(s / 0.2) if max(dx, dy) <= 15 else 0
    ),
    "window-soft-argmax:temperature=0.3,window=10,outside=zero": lambda s, dx, dy: (
        math.exp(s / 0.3) if max(dx, dy) <= 10 else 1
    ),
    "kernel-soft-argmax:temperature=0.1,sigma=9": lambda s, dx, dy: math.exp(
        s * math.exp(-(dx**2 + dy**2) / (2 * 9**2)) / 0.1
    ),
}


@pytest.mark.parametrize("name", SPELT)
def test_a_soft_argmax_is_the_expected_cell_around_the_best(name: str) -> None:
    rows = torch.rand(1, 5, SIDE**2, generator=torch.Generator().manual_seed(1)).double() * 0.1
    found = DECODERS[name](rows)[0]
    for row, (x, y) in zip(rows[0].tolist(), found.tolist(), strict=True):
        best, sums = row.index(max(row)), [0.0, 0.0, 0.0]
        for cell, score in enumerate(row):
            dx, dy = abs(cell % SIDE - best % SIDE) * 60 / SIDE, abs(cell // SIDE - best // SIDE) * 60 / SIDE
            weight = SPELT[name](score / max(row), dx, dy)
            sums = [total + weight * v for total, v in zip(sums, (1, cell % SIDE, cell // SIDE), strict=True)]
        assert (x, y) == pytest.approx((sums[1] / sums[0], sums[2] / sums[0]), abs=1e-9)


@pytest.fixture
def points() -> Tensor:
    return torch.rand(4, 2, 9, generator=torch.Generator().manual_seed(2)) * 64


@pytest.fixture
def model() -> DHPF:
    torch.manual_seed(1)
    return DHPF(Bank([16, 8], [16, 24], [8, 8], images=8)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("voting", ["hough", "none"])
@pytest.mark.parametrize("name", ["cells", "window-soft-argmax", "kernel-soft-argmax"])
def test_a_batch_gives_what_its_pairs_give(model: DHPF, points: Tensor, name: str, voting: str) -> None:
    model.voting, model.decoder = voting, name
    with torch.no_grad():
        matches = model(*(torch.arange(8).view(2, 4, 1, 1, 1)), frame=64)
        moved, confidence = matches.transfer_with_confidence(points)
        assert torch.equal(moved, matches.transfer(points))
        assert confidence.isfinite().all()
        for b in range(4):
            pair = slice(b, b + 1)
            assert torch.equal(moved[pair], matches[pair].transfer(points[pair]))


def test_points_return_by_the_transposed_scores(model: DHPF, points: Tensor) -> None:
    with torch.no_grad():
        matches = model(*(torch.arange(8).view(2, 4, 1, 1, 1)), frame=64)
        back = matches.transfer_back(points)
        for b in range(4):
            scores = matches[b : b + 1].scores.rows(torch.arange(256)[None])[0]
            expected = reference.transfer_keypoints(scores.double().T, points[b])
            torch.testing.assert_close(back[b].double(), expected)


def test_a_sharp_window_finds_the_best_cell(model: DHPF, points: Tensor) -> None:
    rows = torch.rand(1, 7, 256, generator=torch.Generator().manual_seed(3))
    sharp = DECODERS["window-soft-argmax:temperature=1e-5"](rows)
    assert torch.allclose(sharp, DECODERS["cells"](rows))


@pytest.mark.parametrize("end", ["temperature=0", "temperature=x", "window", "outside=in", "sigma=7", ""])
def test_a_wrong_parameter_is_refused(end: str) -> None:
    with pytest.raises(UserError, match="window-soft-argmax:"):
        DECODERS[f"window-soft-argmax:{end}" if end else "window-soft-argmax: "]


def test_a_config_has_the_decoder_unless_it_is_the_papers() -> None:
    name = "kernel-soft-argmax:sigma=5"
    config = ModelConfig.of_model(build("efficientnet_lite0", decoder=name))
    assert config.to_metadata()["decoder"] == name
    assert ModelConfig.from_metadata(config.to_metadata()) == config
    assert "decoder" not in ModelConfig.of_model(build("efficientnet_lite0")).to_metadata()
