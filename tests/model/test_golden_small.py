"""Numbers of the published program that can be checked without any other file.

Beside the published numbers of the second of the four golden pairs, golden_small.npz has what they follow from: the
transformed maps of the layers that it selects, computed in float64 and rounded to 15 significant bits, and for the
gates of the first four layers their weights and the layers' average vectors.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dhpf.model.dhpf import DHPF, Matches
from dhpf.model.gating import DynamicGating
from dhpf.model.transfer import mutual_nn_filter

WAYS = ("src", "trg")
ALL = torch.arange(60 * 60)[None]
Golden = Mapping[str, NDArray[Any]]


class StoredMaps(nn.Module):
    """Stands for a backbone: image 0 has the source's maps, image 1 the target's."""

    def __init__(self, maps: list[list[Tensor]]) -> None:
        super().__init__()
        self.maps = [torch.stack(layer) for layer in zip(*maps, strict=True)]
        self.channels = self.reduced_channels = tuple(m.shape[1] for m in self.maps)

    def layer_maps(self, images: Tensor, frame: int | None) -> list[Tensor]:
        return [m[images[:, 0, 0, 0]] for m in self.maps]


class Selected(DynamicGating):
    """The maps are transformed already, and every layer is selected."""

    def transformed(self, maps: Iterable[Tensor], *_: Any) -> Iterator[tuple[Tensor, Tensor]]:
        return ((m, m) for m in maps)

    def forward(self, pooled: Tensor, *_: Any) -> Tensor:
        return torch.ones(len(pooled), len(self.channels))


@pytest.fixture(scope="module")
def golden() -> Golden:
    with np.load(Path(__file__).parent / "golden_small.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def matches(golden: Golden) -> Matches:
    maps = [[torch.from_numpy(golden[f"{way}_map.{k}"]) for k in golden["layers"]] for way in WAYS]
    model = DHPF(StoredMaps(maps))
    model.learner = Selected(model.backbone.channels, model.backbone.reduced_channels)
    src, trg = torch.tensor([0, 1]).view(2, 1, 1, 1, 1)
    with torch.no_grad():
        return model.eval()(src, trg, frame=240)


def error(actual: Tensor, expected: NDArray[Any]) -> float:
    """Largest difference over the largest entry."""
    reference = torch.from_numpy(expected)
    return ((actual - reference).abs().max() / reference.abs().max()).item()


def test_scores(matches: Matches, golden: Golden) -> None:
    cells, scores = torch.from_numpy(golden["rows"])[None], matches.scores.rows(ALL)[0]
    assert error(matches.scores.rows.correlation.appearance(cells)[0], golden["appearance_rows"]) < 3e-5
    assert error(matches.scores.rows(cells)[0], golden["corr_rows"]) < 3e-5
    assert error(scores.sum(1), golden["row_sum"]) < 3e-5
    assert error(scores.amax(1), golden["row_max"]) < 3e-5
    assert error(matches.scores.column_max[0], golden["col_max"]) < 3e-5


def test_best_targets_and_predictions(matches: Matches, golden: Golden) -> None:
    best = mutual_nn_filter(matches.scores.rows(ALL), matches.scores.column_max)[0].argmax(1)
    assert np.array_equal(best, golden["mutual_argmax"])
    n = golden["n_pts"]
    predicted = matches.transfer(torch.from_numpy(golden["src_kps"])[None])[0, :, :n].numpy()
    np.testing.assert_allclose(predicted, golden["predicted_kps"][:, :n], rtol=0, atol=1e-4)
    distance = np.linalg.norm(predicted - golden["trg_kps"][:, :n], axis=0)
    assert 100 * (distance <= 24).mean() == pytest.approx(float(golden["pck"]))


@pytest.mark.parametrize("kind", ["evaluation", "strong", "weak"])
def test_selection_of_the_first_layers(kind: str, golden: Golden) -> None:
    gates = {name: torch.from_numpy(golden[name]) for name in golden if name.startswith("gumbel_ffns")}
    channels = tuple(gate.shape[1] for name, gate in gates.items() if name.endswith(".0.weight"))
    learner = DynamicGating(channels, channels)
    assert not learner.load_state_dict(gates, strict=False).unexpected_keys
    learner.train(kind != "evaluation")
    src, trg = ([torch.from_numpy(golden[f"{way}_pooled.{k}"]) for k in range(len(channels))] for way in WAYS)
    if kind == "weak":  # a source with the next target, where the categories differ
        categories = golden["category_id"]
        negative = np.flatnonzero(categories != np.roll(categories, -1))
        src = [torch.cat([s, s[negative]]) for s in src]
        trg = [torch.cat([t, t[(negative + 1) % len(t)]]) for t in trg]
    noise = None if kind == "evaluation" else torch.from_numpy(golden[f"{kind}_noise"])
    selection = learner(torch.cat(src, 1) + torch.cat(trg, 1), noise)
    assert np.array_equal(selection.detach(), golden[f"{kind}_selection"])
