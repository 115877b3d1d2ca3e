"""The whole method on one page, in the paper's order and symbols: read this first, with docs/method.md beside it.

Everything is written out: every map is interpolated to the grid, every score of all N×N matches is there, pairs come
one after another. So it is slow; what `train.py` and `test.py` run is the fast path (see `dhpf.model`), which the
tests compare with this page. Sections are those of docs/method.md and, in brackets, of the paper.

    backbone maps f ──▶ gates: z ──▶ transformed h ──▶ appearance a ──▶ Hough scores g ──▶ m = a·g ──▶ points, losses
       section 2              section 3                 section 4          section 5                   sections 6, 7

A pair is a source and a target image of 4S×4S pixels; their correlation grid has S×S = N cells. Cell (x, y) has the
number y·S + x and its centre at (4x, 4y) pixels; i is a cell of the source, j one of the target. l is one of the K
hyperpixel layers. Points are (x, y) in pixels of the frame. The learned part is `DynamicGating` (`learner` below).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-30  # what a maximum or a probability of 0 becomes


@dataclass
class Pair:
    """What matching a pair gives.

    z: K, 1 where the pair selects layer l, else 0.
    a: N×N, appearance scores a_ij.
    g: N×N, geometric scores g_ij.
    """

    z: Tensor
    a: Tensor
    g: Tensor

    @property
    def m(self) -> Tensor:
        """Match scores m_ij, N×N (section 5)."""
        return self.a * self.g


def match(learner: Any, f_src: list[Tensor], f_trg: list[Tensor], u: Tensor | None = None) -> list[Pair]:
    """The forward pass of B pairs: sections 3 to 5.

    Args:
        f_src, f_trg: the backbone's maps of the K layers (section 2, [3.1]), each B×C×h×h. Layer 0 has h = S.
        u: K×B×2 uniform draws in [0, 1) in training; None in evaluation.
    """
    S, training = f_src[0].shape[-1], learner.training
    # The base map, which stands in where no layer is selected. In training, layer 0 is thus transformed twice.
    base = [upsample(transform(learner, 0, f), S) for f in (f_src[0], f_trg[0])]
    z, h = [], []
    for layer, maps in enumerate(zip(f_src, f_trg, strict=True)):
        z.append(select_layer(relevance(learner, layer, *maps), None if u is None else u[layer]))
        h.append([z[layer][:, None, None] * upsample(transform(learner, layer, f), S) for f in maps])
    pairs = []
    for b in range(len(f_src[0])):
        z_b = torch.stack([z_l[b] for z_l in z])
        used = [h_l for h_l, z_l in zip(h, z_b, strict=True) if z_l != 0] or [base]
        src, trg = (torch.cat([h_l[side][b] for h_l in used]) for side in (0, 1))  # hyperimages
        a = appearance(src, trg, training)
        pairs.append(Pair(z_b, a, geometric_scores(a.detach())))
    return pairs


# Section 3 [3.2]: dynamic layer gating and feature transformation


def relevance(learner: Any, layer: int, f_src: Tensor, f_trg: Tensor) -> Tensor:
    """r_l = V relu(norm(W (mean(f_l) + mean(f_l')))), the two logits (skip, select) of B pairs, B×2."""
    pooled = f_src.mean((2, 3), keepdim=True) + f_trg.mean((2, 3), keepdim=True)
    return learner.gumbel_ffns[layer](pooled)[:, :, 0, 0]


def select_layer(r: Tensor, u: Tensor | None) -> Tensor:
    """z_l of B pairs from the logits r, B×2: whether 'select' is the larger one.

    In training the logits get Gumbel noise, and the gradient is that of the softmax (straight-through).
    """
    if u is None:
        return F.one_hot(r.argmax(1), 2)[:, 1].to(r.dtype)
    gumbel = -torch.log(1e-10 - torch.log(u + 1e-10))
    y = torch.softmax(r + gumbel, 1)
    return (F.one_hot(y.argmax(1), 2) - y.detach() + y)[:, 1]


def transform(learner: Any, layer: int, f: Tensor) -> Tensor:
    """h_l = relu(norm(T f_l)), a 1×1 convolution to fewer channels. In training each call is a batch of its own."""
    return learner.reduction_ffns[layer](f)


# Section 4 [3.3]: appearance


def upsample(h: Tensor, S: int) -> Tensor:
    """U h_l, bilinear interpolation to the grid with the corners aligned: B×C×h×h -> B×C×N."""
    return F.interpolate(h, (S, S), mode="bilinear", align_corners=True).flatten(2)


def appearance(src: Tensor, trg: Tensor, training: bool) -> Tensor:
    """a_ij = relu(c_ij / (|s_i| |t_j| + 10⁻³))², the rectified cosine, squared, N×N.

    Args:
        src, trg: hyperimages, C×N; their columns s_i and t_j are the hypercolumns, and c_ij = <s_i, t_j>.
        training: squared lengths of 0 become 10⁻⁴, so that their roots have a gradient.
    """
    c = src.T @ trg
    n_src, n_trg = (x.square().sum(0) for x in (src, trg))
    if training:
        n_src, n_trg = (torch.where(n == 0, n + 1e-4, n) for n in (n_src, n_trg))
    cosine = c / (n_src.sqrt()[:, None] * n_trg.sqrt()[None, :] + 1e-3)
    return torch.relu(cosine) ** 2


# Section 5 [3.3]: geometry, by regularized Hough matching; no gradient passes


def geometric_scores(a: Tensor) -> Tensor:
    """g_ij, the smoothed votes in the bin of match i, j: N×N from the appearance scores N×N.

    Every match votes with a_ij for the bin of its offset p_j' - p_i, so that matches which agree support each other.
    """
    S = math.isqrt(len(a))
    image = 4 * S
    w = math.sqrt((2 * image) ** 2 // 8192)  # side of a bin, pixels: the published integer division
    bins = int(2 * image / w) + 1  # an axis
    p = cell_centres(S)
    x, y = ((image - p[:, None] + p[None, :]) / w).floor().long().unbind(2)  # b_ij
    b = (y * bins + x).flatten()
    votes = torch.bincount(b, a.flatten(), bins**2).to(a.dtype)  # v
    d = torch.arange(-3, 4, dtype=a.dtype)
    sigma = 7 / 2 / 2.354
    gaussian = torch.exp(-(d[:, None] ** 2 + d[None, :] ** 2) / (2 * sigma**2))
    smooth = F.conv2d(votes.view(1, 1, bins, bins), (gaussian / gaussian.sum())[None, None], padding=3)
    return smooth.flatten()[b].view_as(a)


def cell_centres(S: int) -> Tensor:
    """p, the centres of all cells, N×2 (x, y)."""
    cell = torch.arange(S * S)
    return 4 * torch.stack([cell % S, cell // S], 1).double()


# Section 6 [3.3]: key-point transfer


def mutual_nn_filter(m: Tensor) -> Tensor:
    """q_ij = m_ij (m_ij / max_k m_ik) (m_ij / max_k m_kj), N×N."""
    row, column = m.max(1, keepdim=True).values, m.max(0, keepdim=True).values
    row, column = (torch.where(largest == 0, EPS, largest) for largest in (row, column))
    return m * (m / row) * (m / column)


def covering_cells(point: Tensor, S: int) -> Tensor:
    """R, the source cells whose receptive field, a box of side 10 around the centre, contains the point."""
    p = cell_centres(S)
    return ((point >= p - 5) & (point <= p + 5)).all(1).nonzero()[:, 0]


def transfer_keypoints(m: Tensor, points: Tensor) -> Tensor:
    """Where source points are in the target, 2×P -> 2×P; NaN: no cell covers the point.

    A point moves by the mean over R of p_j(i)' - p_i, where j(i) has the largest q_ij.
    """
    S = math.isqrt(len(m))
    best, p = mutual_nn_filter(m).argmax(1), cell_centres(S)
    predicted = torch.full(points.shape, torch.nan, dtype=torch.float64)
    for k, point in enumerate(points.double().T):
        R = covering_cells(point, S)
        if len(R):
            predicted[:, k] = (point + p[best[R]] - p[R]).mean(0)
    return predicted


# Section 7 [3.4]: losses


def selection_loss(pairs: list[Pair], mu: float) -> Tensor:
    """Σ_l (mean(z_l) - μ)², the mean over the batch."""
    return ((torch.stack([pair.z for pair in pairs]).mean(0) - mu) ** 2).sum()


def strong_loss(pairs: list[Pair], src_kps: Tensor, trg_kps: Tensor, n_pts: Tensor, limit: Tensor) -> Tensor:
    """Key-point supervision: the mean over pairs of the mean over key-points of -ω log(softmax(x)_j).

    x is row i of m, normalised; i and j are the cells nearest to the key-point and to its target. ω is 1 for a hard
    key-point, whose prediction is further off than the limit, and less the nearer an easy one's is.

    Args:
        src_kps, trg_kps: B×2×P, of which n_pts, B, are key-points. limit: B, α times the threshold, pixels.
    """
    losses = []
    for b, pair in enumerate(pairs):
        predicted, total = transfer_keypoints(pair.m.detach(), src_kps[b]), torch.zeros(())
        S = math.isqrt(len(pair.m))
        for k in range(n_pts[b]):
            i, j = (nearest_cell(kps[b, :, k], S) for kps in (src_kps, trg_kps))
            row = pair.m[i]
            deviation = row.detach().std()
            x = (row - row.mean()) / (deviation if deviation != 0 else 1)
            d = (predicted[:, k] - trg_kps[b, :, k].double()).norm()
            omega = (d / limit[b]) ** 2 if d <= limit[b] else 1
            total = total - omega * torch.log(torch.softmax(x, 0)[j] + EPS)
        losses.append(total / n_pts[b])
    return torch.stack(losses).mean()


def nearest_cell(point: Tensor, S: int) -> int:
    """The cell whose centre is nearest to a point, the first of equals."""
    return int((cell_centres(S) - point.double()).square().sum(1).argmin())


def entropy(m: Tensor) -> Tensor:
    """H, how undecided the matches are: the mean of -Σ_r π_ir log2 π_ir over the rows of q, and over its columns.

    π_i is row i of q as a map of S×S target cells, reduced to 15×15 places, divided by its sum.
    """
    S, q = math.isqrt(len(m)), mutual_nn_filter(m)
    both = []
    for rows in (q, q.T):
        reduced = F.interpolate(rows.reshape(-1, 1, S, S), (15, 15), mode="bilinear", align_corners=True)
        total = reduced.flatten(1).sum(1, keepdim=True)
        pi = reduced.flatten(1) / torch.where(total == 0, 1, total)
        pi = torch.where(pi == 0, EPS, pi)
        both.append(-(pi * torch.log2(pi)).sum(1).mean())
    return (both[0] + both[1]) / 2


def weak_loss(pairs: list[Pair], positives: int) -> Tensor:
    """Supervision by image labels: mean H of the positive pairs, which come first, over that of the negative ones."""
    H = torch.stack([entropy(pair.m) for pair in pairs])
    return H[:positives].mean() / (H[positives:].mean() if len(pairs) > positives else 1)


def with_negatives(categories: list[int]) -> tuple[list[int], list[int]]:
    """Source and target of the positive pairs, then of the negatives: a source with the target of the next pair of
    the batch, in a circle, where their categories differ."""
    B = len(categories)
    negatives = [b for b in range(B) if categories[b] != categories[(b + 1) % B]]
    return [*range(B), *negatives], [*range(B), *((b + 1) % B for b in negatives)]
