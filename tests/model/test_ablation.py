"""The method with parts replaced equals the dense oracle with the same parts replaced; options, and test.py."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dhpf.model import reference
from dhpf.model.ablation import Ablation
from dhpf.model.dhpf import DHPF
from tests.helpers.models import Bank

SIDES, CHANNELS, FRAME = [16, 16, 8, 4], [16, 8, 24, 32], 64
SCENES = {
    "fixed layers": Ablation(fixed_layers=(1, 3)),
    "raw": Ablation(raw=True),
    "raw, one coarse layer": Ablation(fixed_layers=(2,), raw=True),
    "soft": Ablation(soft=True),
}


@pytest.fixture
def model() -> DHPF:
    torch.manual_seed(1)
    bank = Bank(SIDES, CHANNELS, [c // 8 for c in CHANNELS], images=2)
    bank.maps = [m.double() for m in bank.maps]
    return DHPF(bank).double().eval()  # type: ignore[arg-type]


def images(*numbers: int) -> Tensor:
    return torch.tensor(numbers).view(-1, 1, 1, 1)


def dense(model: DHPF, changed: Ablation, voting: str) -> tuple[Tensor, Tensor]:
    """Selection K and match scores N×N of image 0 with image 1, layer by layer and cell by cell."""
    maps = [[m[i : i + 1] for m in model.backbone.maps] for i in (0, 1)]
    learner = model.learner
    chance = []
    for k, (src, trg) in enumerate(zip(*maps, strict=True)):
        pooled = src.mean((2, 3), keepdim=True) + trg.mean((2, 3), keepdim=True)
        chance.append(learner.gumbel_ffns[k](pooled).flatten().softmax(0)[1])
    selection = torch.stack(chance) if changed.soft else (torch.stack(chance) > 0.5).double()
    if changed.fixed_layers is not None:
        selection = torch.zeros(4, dtype=torch.float64).index_fill(0, torch.tensor(changed.fixed_layers), 1)
    ways = []
    for way in maps:
        layers = []
        for k, m in enumerate(way):
            m = m if changed.raw else learner.reduction_ffns[k](m)
            m = F.interpolate(m, (SIDES[0],) * 2, mode="bilinear", align_corners=True)
            layers.append(m[0].flatten(1) * selection[k])
        ways.append(torch.cat(layers))
    appearance = reference.appearance(*ways, training=False)
    return selection, appearance * reference.geometric_scores(appearance) if voting == "hough" else appearance


@pytest.mark.parametrize("voting", ["hough", "none"])
@pytest.mark.parametrize("changed", SCENES.values(), ids=list(SCENES))
def test_ablations_equal_the_dense_oracle(model: DHPF, changed: Ablation, voting: str) -> None:
    with torch.no_grad():
        model.ablate(changed)
        model.voting = voting
        matches = model(images(0), images(1), frame=FRAME)
        selection, scores = dense(model, changed, voting)
        assert selection.sum() > 0
        torch.testing.assert_close(matches.selection[0], selection)
        cells = torch.arange(SIDES[0] ** 2)[None]
        torch.testing.assert_close(matches.scores.rows(cells)[0], scores)
        points = torch.rand(2, 30, dtype=torch.float64) * 4 * SIDES[0]
        torch.testing.assert_close(
            matches.transfer(points[None])[0], reference.transfer_keypoints(scores, points)
        )
