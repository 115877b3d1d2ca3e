"""Sums of layers are what comparing the layers anew gives."""

import pytest
import torch

from dhpf.model.ablation import Ablation
from dhpf.model.dhpf import DHPF
from dhpf.model.layer_subsets import layer_sums
from tests.helpers.models import Bank


@pytest.mark.parametrize("voting", ["hough", "none"])
@pytest.mark.parametrize("order", [[1, 3], [0], [4, 2], [2, 0, 4, 1], [4, 3, 2, 1, 0]])
def test_a_sum_of_layers_is_what_comparing_them_anew_gives(order: list[int], voting: str) -> None:
    """Two pairs, layers added in any order; sides with and without a layer; maps that start below the grid's side."""
    torch.manual_seed(1)
    bank = Bank([16, 16, 8, 8, 4], [16, 8, 24, 8, 32], [2] * 5, images=4)
    bank.maps = [m.double() for m in bank.maps]
    model = DHPF(bank, voting).double().eval()  # type: ignore[arg-type]
    model.ablate(Ablation(tuple(sorted(order)), raw=True))
    with torch.no_grad():
        src, trg = (model.encode(torch.tensor(images).view(-1, 1, 1, 1), 64) for images in ([0, 1], [2, 3]))
        anew = model.compare(src, trg)
        layers = layer_sums(src, trg, model.layer_of_channel)
        total = layers[order[0]]
        for layer in order[1:]:
            total = total + layers[layer]
        found = total.matches(voting)
        cells = torch.arange(256).expand(2, -1)
        torch.testing.assert_close(found.scores.rows(cells), anew.scores.rows(cells))
        torch.testing.assert_close(found.scores.column_max, anew.scores.column_max)
        assert torch.equal(found.selection, anew.selection.to(found.selection))
        points = torch.rand(2, 2, 30, dtype=torch.float64) * 64
        torch.testing.assert_close(found.transfer(points), anew.transfer(points))
