"""Training steps with strong or weak supervision (docs/method.md, section 7; paper, section 3.4); their draws."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dhpf.evaluation.metrics import keypoint_errors
from dhpf.model.dhpf import DHPF, Matches
from dhpf.model.grid import nearest_cells
from dhpf.model.losses import entropies, keypoint_weights, selection_loss, strong_loss

Batch = dict[str, Any]


@dataclass(frozen=True)
class StepResult:
    """What a step computed from B pairs.

    Args:
        matching_loss: the strong or the weak loss, a scalar with gradient.
        selection_loss: Σ over layers of (mean selection − μ)², a scalar with gradient.
        pck: B, in percent; NaN for pairs without key-points or with a threshold of zero.
        predicted: target key-points, B×2×P, in pixels of the frame.
        selection: B'×K, without gradient; B' > B where a step adds negative pairs.
    """

    matching_loss: Tensor
    selection_loss: Tensor
    pck: Tensor
    predicted: Tensor
    selection: Tensor

    @property
    def loss(self) -> Tensor:
        return self.matching_loss + self.selection_loss


Step = StepResult  # its name in docs/extending.md
Supervision = Callable[[DHPF, Batch, float, float, Tensor | None], StepResult]


def strong_step(model: DHPF, batch: Batch, alpha: float, mu: float, noise: Tensor | None) -> StepResult:
    """Cross-entropy at key-points (paper, section 3.4, strong supervision).

    Args: alpha: of PCK; mu: μ, how often a layer should be selected; noise: as in `DynamicGating`.
    """
    matches = model(batch["src_img"], batch["trg_img"], noise=noise, frame=batch.get("frame"))
    pck, distance, predicted = predict_keypoints(matches, batch, alpha)
    weights = keypoint_weights(distance, alpha * batch["pckthres"], batch["n_pts"])
    source, target = (nearest_cells(points, matches.side) for points in keypoints(batch))
    loss = strong_loss(matches.scores.rows(source), target, weights)
    selection = matches.selection
    return StepResult(loss, selection_loss(selection, mu), pck, predicted, selection.detach())


def weak_step(model: DHPF, batch: Batch, alpha: float, mu: float, noise: Tensor | None) -> StepResult:
    """Ratio of the entropies of positive and negative pairs (paper, section 3.4, weak supervision).

    A negative pair is a source with the next pair's target, where the categories differ. Key-points serve PCK alone.
    Args: as in `strong_step`.
    """
    category = batch["category_id"]
    B = len(category)
    src_index = trg_index = torch.arange(B, device=category.device)
    if model.training:
        next_pair = src_index.roll(-1)
        negative = category != category[next_pair]
        trg_index = torch.cat([trg_index, next_pair[negative]])
        src_index = torch.cat([src_index, src_index[negative]])
    src, trg = model.encode_pairs(
        batch["src_img"], batch["trg_img"], (src_index, trg_index), batch.get("frame")
    )
    matches = model.compare(src, trg, noise)
    entropy = entropies(matches.scores)
    loss = entropy[:B].mean() / (entropy[B:].mean() if len(entropy) > B else 1)
    pck, _, predicted = predict_keypoints(matches[:B], batch, alpha)
    selection = matches.selection
    return StepResult(loss, selection_loss(selection, mu), pck, predicted, selection.detach())


def keypoints(batch: Batch) -> tuple[Tensor, Tensor]:
    """Source and target key-points of a batch of `to_device`, both B×2×P, P as many as its longest pair has."""
    longest = max(1, int(batch["longest"]))
    return batch["src_kps"][..., :longest], batch["trg_kps"][..., :longest]


def predict_keypoints(matches: Matches, batch: Batch, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """PCK of each pair in percent, B; distances of predictions from the truth, B×P, in pixels; predictions, B×2×P."""
    source, target = keypoints(batch)
    predicted, n_pts, threshold = matches.transfer(source), batch["n_pts"], batch["pckthres"]
    correct, distance = keypoint_errors(predicted, target, n_pts, threshold, alpha)
    return (100 * correct.sum(1) / n_pts).where(threshold > 0, torch.nan), distance, predicted


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with its tensors on the device, and as "longest" the largest number of key-points of a pair."""
    longest = int(batch["n_pts"].max())
    moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
    return moved | {"longest": longest}


def gate_noise(layers: int, pairs: int, *key: int) -> Tensor:
    """The uniform draws of a step, layers×pairs×2: a function of `key` (seed, epoch, step, process) alone."""
    return torch.rand(layers, pairs, 2, generator=generator(*key))


def epoch_batches(pairs: int, bsz: int, processes: int, *key: int) -> Iterator[list[int]]:
    """Indices of an epoch's batches, shuffled by `key`. A last batch of fewer than two pairs a process is dropped."""
    order = torch.randperm(pairs, generator=generator(*key)).tolist()
    for first in range(0, pairs, bsz):
        batch = order[first : first + bsz]
        if len(batch) >= 2 * processes:
            yield batch


def generator(*key: int) -> torch.Generator:
    """A random generator that depends on `key` alone."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return torch.Generator().manual_seed(seed)
