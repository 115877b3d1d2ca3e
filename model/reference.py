"""The method (docs/method.md, sections 3 to 7), dense and slow: what the fast program is tested against.

A transcription of the text alone: every map interpolated, every N×N matrix written out, one pair at a time. It
takes backbone maps and a learner's modules (their parameters and batch norms), for a correlation grid of side S,
N = S², and images of 4S pixels; points are in pixels of that frame.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Pair:
    """One pair: K-vector of selected layers; N×N appearance, geometric and match scores (source × target)."""

    selection: Tensor
    appearance: Tensor
    geometric: Tensor
    scores: Tensor


# Section 3: gating


def select(gate: nn.Module, src: Tensor, trg: Tensor, noise: Tensor | None) -> Tensor:
    """The 'select' entries of B pairs for one layer with maps B×C×h×w; `noise` B×2, None in evaluation."""
    logits = gate(src.mean((2, 3), keepdim=True) + trg.mean((2, 3), keepdim=True))[:, :, 0, 0]
    if noise is None:
        return F.one_hot(logits.argmax(1), 2)[:, 1].to(logits.dtype)
    y = torch.softmax(logits - torch.log(1e-10 - torch.log(noise + 1e-10)), 1)
    return (F.one_hot(y.argmax(1), 2) - y.detach() + y)[:, 1]


def match(
    learner: nn.Module, src_maps: list[Tensor], trg_maps: list[Tensor], noise: Tensor | None = None
) -> list[Pair]:
    """B pairs from the maps of K layers, each B×C×h×w; `noise` K×B×2 in training."""
    side, B = src_maps[0].shape[-1], len(src_maps[0])

    def on_grid(maps: Tensor) -> Tensor:
        return F.interpolate(maps, (side, side), mode="bilinear", align_corners=True).flatten(2)

    base = [on_grid(learner.reduction_ffns[0](maps)) for maps in (src_maps[0], trg_maps[0])]
    selections, hyper = [], []
    for k, (src, trg) in enumerate(zip(src_maps, trg_maps, strict=True)):
        selected = select(learner.gumbel_ffns[k], src, trg, None if noise is None else noise[k])
        selections.append(selected)
        hyper.append([on_grid(learner.reduction_ffns[k](m)) * selected[:, None, None] for m in (src, trg)])
    pairs = []
    for b in range(B):
        selection = torch.stack([s[b] for s in selections])
        chosen = [layer for layer, s in zip(hyper, selection, strict=True) if s != 0] or [base]
        src, trg = (torch.cat([layer[way][b] for layer in chosen]) for way in (0, 1))
        a = appearance(src, trg, floor=learner.training)
        geometric = hough(a.detach())
        pairs.append(Pair(selection, a, geometric, a * geometric))
    return pairs


# Section 4: appearance


def appearance(src: Tensor, trg: Tensor, floor: bool) -> Tensor:
    """N×N from two hyperimages C×N; `floor`: zero norms get 1e-4."""
    norms = [x.square().sum(0) for x in (src, trg)]
    if floor:
        norms = [torch.where(n == 0, n + 1e-4, n) for n in norms]
    cosine = src.T @ trg / (norms[0].sqrt()[:, None] * norms[1].sqrt()[None, :] + 1e-3)
    return torch.relu(cosine) ** 2


# Section 5: geometry


def hough(votes: Tensor) -> Tensor:
    """Geometric score of every match, N×N, from the appearance scores N×N."""
    N = len(votes)
    S = math.isqrt(N)
    image = 4 * S
    cell = math.sqrt((2 * image) ** 2 // 8192)
    bins = int(2 * image / cell) + 1
    x, y = centres(S).unbind(1)
    bin_x = ((image - x[:, None] + x[None, :]) / cell).floor().long()
    bin_y = ((image - y[:, None] + y[None, :]) / cell).floor().long()
    index = (bin_y * bins + bin_x).flatten()
    histogram = torch.bincount(index, votes.flatten(), bins**2).view(1, 1, bins, bins)
    offset = torch.arange(-3, 4, dtype=votes.dtype)
    variance = (7 / 2 / 2.354) ** 2
    kernel = torch.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * variance))
    smooth = F.conv2d(histogram.to(votes.dtype), (kernel / kernel.sum())[None, None], padding=3)
    return smooth.flatten()[index].view(N, N)


@cache
def centres(S: int) -> Tensor:
    """Centres of all cells, N×2 (x, y); cell y·S + x."""
    return torch.tensor([(4.0 * x, 4.0 * y) for y in range(S) for x in range(S)], dtype=torch.float64)


# Section 6: transfer


def mutual(scores: Tensor) -> Tensor:
    """Mutual nearest-neighbour filter of N×N scores."""
    row, column = scores.max(1, keepdim=True).values, scores.max(0, keepdim=True).values
    row, column = (torch.where(m == 0, 1e-30, m) for m in (row, column))
    return scores * (scores / row) * (scores / column)


def covering(point: Tensor, S: int) -> Tensor:
    """Source cells whose box contains a point (x, y)."""
    lowest, highest = centres(S) - 5, centres(S) + 5
    return ((point >= lowest) & (point <= highest)).all(1).nonzero()[:, 0]


def transfer(scores: Tensor, points: Tensor) -> Tensor:
    """Predicted target points 2×P of source points 2×P; NaN: no prediction."""
    S = math.isqrt(len(scores))
    best = mutual(scores).argmax(1)
    predicted = torch.full(points.shape, torch.nan, dtype=torch.float64)
    for p, point in enumerate(points.double().T):
        cells = covering(point, S)
        if len(cells):
            predicted[:, p] = (point + centres(S)[best[cells]] - centres(S)[cells]).mean(0)
    return predicted


# Section 7: losses


def nearest(point: Tensor, S: int) -> int:
    """The cell whose centre is nearest to a point (x, y), the first of equals."""
    return int((centres(S) - point.double()).square().sum(1).argmin())


def strong_loss(pairs: list[Pair], src_kps: Tensor, trg_kps: Tensor, n_pts: Tensor, limit: Tensor) -> Tensor:
    """Key-points B×2×P, n_pts B; `limit` B: the distance up to which a prediction is correct."""
    losses = []
    for b, pair in enumerate(pairs):
        scores, S = pair.scores, math.isqrt(len(pair.scores))
        predicted, loss = transfer(scores.detach(), src_kps[b]), torch.zeros(())
        for p in range(n_pts[b]):
            row = scores[nearest(src_kps[b, :, p], S)]
            deviation = row.detach().std()
            row = (row - row.mean()) / (deviation if deviation != 0 else 1)
            cross_entropy = -torch.log(torch.softmax(row, 0)[nearest(trg_kps[b, :, p], S)] + 1e-30)
            distance = (predicted[:, p] - trg_kps[b, :, p].double()).norm()
            easy = distance <= limit[b]
            loss = loss + cross_entropy * ((distance / limit[b]) ** 2 if easy else 1)
        losses.append(loss / n_pts[b])
    return torch.stack(losses).mean()


def entropy(scores: Tensor) -> Tensor:
    """Mean entropy of N×N scores, of the source's and the target's distributions."""
    S = math.isqrt(len(scores))
    filtered = mutual(scores)
    both = []
    for rows in (filtered, filtered.T):
        maps = rows.reshape(-1, 1, S, S)
        p = F.interpolate(maps, (15, 15), mode="bilinear", align_corners=True).flatten(1)
        total = p.sum(1, keepdim=True)
        p = p / torch.where(total == 0, 1, total)
        p = torch.where(p == 0, 1e-30, p)
        both.append(-(p * torch.log2(p)).sum(1).mean())
    return (both[0] + both[1]) / 2


def with_negatives(categories: list[int]) -> tuple[list[int], list[int]]:
    """Indices of source and target of the positive and, behind them, of the negative pairs."""
    src = trg = list(range(len(categories)))
    following = trg[1:] + trg[:1]
    negative = [b for b in src if categories[b] != categories[following[b]]]
    return src + negative, trg + [following[b] for b in negative]


def weak_loss(pairs: list[Pair], positives: int) -> Tensor:
    """The first `positives` pairs are positive, the others negative."""
    H = torch.stack([entropy(pair.scores) for pair in pairs])
    return H[:positives].mean() / (H[positives:].mean() if len(pairs) > positives else 1)


def selection_loss(pairs: list[Pair], rate: float) -> Tensor:
    return ((torch.stack([pair.selection for pair in pairs]).mean(0) - rate) ** 2).sum()
