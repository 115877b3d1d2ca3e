"""The fast program equals the dense oracle, in float64, on random inputs; its pieces equal naive loops."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dhpf.model import correlation, gating, hough, reference, voting
from dhpf.model.dhpf import DHPF
from dhpf.model.losses import entropies
from dhpf.training import SUPERVISIONS
from tests.helpers.models import Bank

ALPHA, RATE = 0.1, 0.4
MAX_PTS = 4


@dataclass
class Problem:
    """A model on random maps, B pairs (image b with image B + b) and the noise of a training step."""

    model: DHPF
    batch: dict[str, Any]
    noise: Tensor

    def maps(self, way: str) -> list[Tensor]:
        return self.model.backbone.layer_maps(self.batch[way])

    def points(self, b: int, way: str = "src_kps") -> Tensor:
        return self.batch[way][b, :, : self.batch["n_pts"][b]]


@st.composite
def problems(draw: st.DrawFn, fewest: int = 1) -> Problem:
    """Any sides, channels, widths and number of pairs (at least `fewest`), all in float64."""
    side = draw(st.sampled_from([12, 13, 15, 17, 20]))
    coarser = st.lists(st.integers(1, side), max_size=4)
    sides = [side, *sorted(draw(coarser), reverse=True)]
    few = st.lists(st.integers(1, 9), min_size=len(sides), max_size=len(sides))
    channels, widths, pairs = draw(few), draw(few), draw(st.integers(fewest, 4))
    selects = draw(st.sampled_from(["some", "some", "some", "no layer", "all layers"]))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    return make_problem(sides, channels, widths, pairs, selects)


def make_problem(
    sides: list[int], channels: list[int], widths: list[int], pairs: int, selects: str = "some"
) -> Problem:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = DHPF(Bank(sides, channels, widths, 2 * pairs))
        for name, value in model.learner.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.normal_(0, 0.5 if value.dim() == 1 else value.shape[1] ** -0.5)
        for gate in model.learner.gumbel_ffns if selects != "some" else ():
            # What the last convolution reads is not negative, so the sign of its weights decides.
            gate[3].weight.data[1] = 50.0 if selects == "all layers" else -50.0
            gate[3].weight.data[0] = -gate[3].weight.data[1]
        frame = 4 * sides[0]
        # Whole pixels meet borders and ties; some points lie outside every receptive field.
        points = torch.randint(-12, frame + 9, (2, pairs, 2, MAX_PTS)) / torch.tensor([1, 1, 1, 3])
        n_pts = torch.randint(1, MAX_PTS + 1, (pairs,))
        points[:, torch.arange(MAX_PTS).expand(pairs, 2, -1) >= n_pts[:, None, None]] = -1
        numbers = torch.arange(2 * pairs).view(2, pairs, 1, 1, 1)
        batch = {
            "src_img": numbers[0], "trg_img": numbers[1], "src_kps": points[0], "trg_kps": points[1],
            "n_pts": n_pts, "longest": int(n_pts.max()), "pckthres": 10 * torch.randint(5, 40, (pairs,)).double(),
            "category_id": torch.randint(0, 3, (pairs,)), "frame": frame,
        }  # fmt: skip
        return Problem(model, batch, torch.rand(len(sides), 2 * pairs, 2))
    finally:
        torch.set_default_dtype(default)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9, whole: float = 0) -> None:
    """Equal up to a share of the largest expected entry, or of `whole`; NaN where NaN is expected."""
    largest = whole + (expected.nan_to_num().abs().max().item() if expected.numel() else 0)
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * largest + 1e-13, equal_nan=True)


def zero_if_none(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def all_cells(pairs: int, side: int) -> Tensor:
    return torch.arange(side**2).expand(pairs, -1)


# The whole program


@given(problems())
@settings(deadline=None, max_examples=25)
def test_evaluation_and_validation_equal_the_oracle(problem: Problem) -> None:
    model, batch = problem.model.eval(), problem.batch
    with torch.no_grad():
        matches = model(batch["src_img"], batch["trg_img"], frame=batch["frame"])
        pairs = reference.match(model.learner, problem.maps("src_img"), problem.maps("trg_img"))
        keypoints = (batch["src_kps"], batch["trg_kps"], batch["n_pts"], ALPHA * batch["pckthres"])
        strong, weak = reference.strong_loss(pairs, *keypoints), reference.weak_loss(pairs, len(pairs))
        for kind, loss in (("strong", strong), ("weak", weak)):
            step = SUPERVISIONS[kind](model, batch, ALPHA, RATE, None)
            close(step.loss, loss + reference.selection_loss(pairs, RATE), 1e-6)
    cells = all_cells(len(pairs), matches.side)
    appearance, scores = matches.scores.rows.correlation.appearance(cells), matches.scores.rows(cells)
    predicted = matches.transfer(batch["src_kps"])
    for b, pair in enumerate(pairs):
        assert torch.equal(matches.selection[b], pair.z)
        close(appearance[b], pair.a)
        close(scores[b], pair.m)
        close(matches.scores.column_max[b], pair.m.amax(0))
        n = batch["n_pts"][b]
        close(predicted[b, :, :n], reference.transfer_keypoints(pair.m, problem.points(b)))


@pytest.mark.parametrize("kind", ["strong", "weak"])
@given(problem=problems(fewest=2))
@settings(deadline=None, max_examples=15)
def test_training_step_and_its_gradients_equal_the_oracle(kind: str, problem: Problem) -> None:
    model, batch = problem.model.train(), problem.batch
    learner, B = deepcopy(model.learner), len(batch["n_pts"])

    step = SUPERVISIONS[kind](model, batch, ALPHA, RATE, problem.noise)
    step.loss.backward()

    src, trg = (
        reference.with_negatives(batch["category_id"].tolist()) if kind == "weak" else [list(range(B))] * 2
    )
    maps = [[m[index] for m in problem.maps(way)] for way, index in (("src_img", src), ("trg_img", trg))]
    pairs = reference.match(learner, *maps, problem.noise[:, : len(src)])
    keypoints = (batch["src_kps"], batch["trg_kps"], batch["n_pts"], ALPHA * batch["pckthres"])
    loss = reference.weak_loss(pairs, B) if kind == "weak" else reference.strong_loss(pairs, *keypoints)
    loss = loss + reference.selection_loss(pairs, RATE)
    loss.backward()

    close(step.selection, torch.stack([pair.z for pair in pairs]).detach(), 1e-15)
    tolerance = 1e-6  # distances of key-points are rounded to float32
    close(step.loss, loss, tolerance)
    for b, pair in enumerate(pairs[:B]):
        distance = reference.transfer_keypoints(pair.m.detach(), problem.points(b)) - problem.points(
            b, "trg_kps"
        )
        correct = distance.norm(dim=0) <= keypoints[3][b]
        close(step.pck[b].double(), 100 * correct.double().mean(), tolerance)
    gradients = [[zero_if_none(p) for p in x.parameters()] for x in (model.learner, learner)]
    whole = max(g.abs().max().item() for g in gradients[1])
    for actual, expected in zip(*gradients, strict=True):
        close(actual, expected, tolerance, whole=0.1 * whole)
    for ours, theirs in zip(model.learner.buffers(), learner.buffers(), strict=True):
        close(ours, theirs)


# Features


@given(problems(), st.integers(1, 2**17), st.integers(1, 2**15), st.sampled_from([0, 2**30]))
@settings(deadline=None, max_examples=20)
def test_voting_does_not_depend_on_the_blocks(problem: Problem, block: int, table: int, kept: int) -> None:
    """Nor on whether tables, native products and similarities are kept or computed again."""
    batch = problem.batch
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = problem.model.eval()(batch["src_img"], batch["trg_img"], frame=batch["frame"])
        patch.setattr(correlation, "block_entries", lambda _: block)
        patch.setattr(correlation, "table_entries", lambda _: table)
        patch.setattr(correlation, "MAX_PRODUCT_ENTRIES", kept)
        patch.setattr(hough, "MAX_KEPT_ENTRIES", kept)
        actual = problem.model(batch["src_img"], batch["trg_img"], frame=batch["frame"])
    for a, e in zip(vars(actual.scores.rows).values(), vars(expected.scores.rows).values(), strict=True):
        if isinstance(a, Tensor):
            close(a, e)
    cells = all_cells(len(batch["n_pts"]), expected.side)
    close(actual.scores.rows(cells), expected.scores.rows(cells))


@given(problems())
@settings(deadline=None, max_examples=10)
def test_pairs_together_as_on_a_gpu_equal_pairs_one_by_one(problem: Problem) -> None:
    batch = problem.batch
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = problem.model.eval()(batch["src_img"], batch["trg_img"], frame=batch["frame"])
        for module in (correlation, gating, voting):
            patch.setattr(module, "use_batched_kernels", lambda _: True)
        actual = problem.model(batch["src_img"], batch["trg_img"], frame=batch["frame"])
    cells = all_cells(len(batch["n_pts"]), expected.side)
    close(actual.scores.rows(cells), expected.scores.rows(cells))
    close(actual.scores.column_max, expected.scores.column_max)
    close(entropies(actual.scores), entropies(expected.scores))


# The weak loss


def factors_of(
    seed: int, sides: tuple[int, ...], channels: int, least: float = 0
) -> correlation.CorrelationFactors:
    """Random factors of a pair, in float64, with gradient; their maps are at least so large."""
    draw = torch.Generator().manual_seed(seed)
    src, trg = (
        tuple(torch.randn(1, h * h, channels, dtype=torch.float64, generator=draw) for h in sides)
        for _ in "st"
    )
    src, trg = (tuple(x.clamp(min=0).add(least).requires_grad_() for x in maps) for maps in (src, trg))
    lengths = 0.1 + torch.rand(2, 1, sides[0] ** 2, dtype=torch.float64, generator=draw)
    products = tuple((s @ t.mT).detach() for s, t in zip(src[1:], trg[1:], strict=True))
    return correlation.CorrelationFactors(src, trg, products, *lengths.requires_grad_())


@pytest.mark.parametrize("vote", [hough.hough_voting, voting.no_voting])
@pytest.mark.parametrize("sides", [(12,), (17, 9, 1)])
def test_fused_entropies_are_those_of_whole_matrices(sides: tuple[int, ...], vote: voting.Voting) -> None:
    """Value and gradients; the plain path has neither blocks nor tables."""
    results = []
    for path in ("fused", "plain"):
        factors = factors_of(3, sides, 4)
        scores = vote(correlation.Correlation((factors,)))
        if path == "plain":
            cells = torch.arange(sides[0] ** 2)[None]
            scores = voting.Scores(voting.DenseRows(scores.rows(cells)), scores.column_max)
        value = entropies(scores)
        inputs = (*factors.src, *factors.trg, factors.src_length, factors.trg_length)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), inputs)))
    for fused, plain in zip(*results, strict=True):
        close(fused, plain)


# Gating


@pytest.mark.parametrize("change", ["loaded", "trained", "passed with gradient", "moved"])
def test_folded_batch_norms_follow_the_weights(change: str) -> None:
    """With a gradient, the modules themselves evaluate."""
    torch.manual_seed(0)
    problem = make_problem([12, 12, 8], [4, 4, 3], [2, 2, 3], 2, "all layers")
    learner, maps = problem.model.learner.eval(), problem.maps("src_img")
    with torch.no_grad():
        before = [y for _, y in learner.transformed(maps)]
    if change == "loaded":
        learner.load_state_dict({k: v + 1 for k, v in learner.state_dict().items()})
    elif change == "trained":
        list(learner.train().transformed(maps))
        learner.eval()
    elif change == "passed with gradient":  # of which an optimiser takes a step
        list(learner.transformed(maps))
        learner.reduction_ffns[1][0].weight.data.mul_(2)
    else:
        learner.half().double()
    with torch.no_grad():
        after = [y for _, y in learner.transformed(maps)]
    for folded, (_, plain) in zip(after, learner.transformed(maps), strict=True):
        close(folded, plain.detach())
    assert not torch.equal(after[1], before[1])


# Pieces


# Where boxes begin and end, and where two centres are equally near; the neighbouring floats, and far away.
