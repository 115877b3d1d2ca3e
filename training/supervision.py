"""Training with strong or weak supervision (docs/method.md, section 7)."""

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
    """What B pairs gave: the two parts of the loss, each pair's PCK in percent (NaN without key-points, and with a
    threshold of zero), the predicted points B×2×P, the selection B'×K."""

    matching: Tensor
    selecting: Tensor
    pck: Tensor
    predicted: Tensor
    selection: Tensor

    @property
    def loss(self) -> Tensor:
        return self.matching + self.selecting


def strong_step(model: DHPF, batch: Batch, alpha: float, rate: float, noise: Tensor | None) -> StepResult:
    """Forward pass with key-point supervision; `rate` is μ, `noise` as in `DynamicGating`."""
    matches = model(batch["src_img"], batch["trg_img"], noise=noise, frame=batch.get("frame"))
    pck, distance, predicted = predict_keypoints(matches, batch, alpha)
    weights = keypoint_weights(distance, alpha * batch["pckthres"], batch["n_pts"])
    source, target = (nearest_cells(kps, matches.side) for kps in keypoints(batch))
    loss = strong_loss(matches.scores.rows(source), target, weights)
    selection = matches.selection
    return StepResult(loss, selection_loss(selection, rate), pck, predicted, selection.detach())


def weak_step(model: DHPF, batch: Batch, alpha: float, rate: float, noise: Tensor | None) -> StepResult:
    """Forward pass with image labels alone; key-points serve to report PCK."""
    category = batch["category_id"]
    B = len(category)
    src_index = trg_index = torch.arange(B, device=category.device)
    if model.training:  # negative pairs: a source with the next pair's target, where the categories differ
        following = src_index.roll(-1)
        differs = category != category[following]
        src_index, trg_index = (
            torch.cat([src_index, src_index[differs]]),
            torch.cat([trg_index, following[differs]]),
        )
    pairs = src_index, trg_index
    src, trg = model.encode_pairs(batch["src_img"], batch["trg_img"], pairs, batch.get("frame"))
    matches = model.compare(src, trg, noise)
    entropy = entropies(matches.scores)
    loss = entropy[:B].mean() / (entropy[B:].mean() if len(entropy) > B else 1)
    pck, _, predicted = predict_keypoints(matches[:B], batch, alpha)
    selection = matches.selection
    return StepResult(loss, selection_loss(selection, rate), pck, predicted, selection.detach())


Supervision = Callable[[DHPF, Batch, float, float, Tensor | None], StepResult]


def keypoints(batch: Batch) -> tuple[Tensor, Tensor]:
    """Source and target key-points of a batch without needless padding, both B×2×P."""
    longest = max(1, int(batch["longest"]))
    return batch["src_kps"][..., :longest], batch["trg_kps"][..., :longest]


def predict_keypoints(matches: Matches, batch: Batch, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """PCK in percent of each pair of a batch, B, how far off each prediction is, B×P, and the predictions, B×2×P."""
    source, target = keypoints(batch)
    predicted, n_pts, threshold = matches.transfer(source), batch["n_pts"], batch["pckthres"]
    correct, distance = keypoint_errors(predicted, target, n_pts, threshold, alpha)
    return (100 * correct.sum(1) / n_pts).where(threshold > 0, torch.nan), distance, predicted


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The tensors of a batch on the device, and the largest number of key-points as a number."""
    longest = int(batch["n_pts"].max())
    moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
    return moved | {"longest": longest}


def gate_noise(layers: int, pairs: int, *key: int) -> Tensor:
    """The uniform draws of a training step, layers×pairs×2: a function of `key` (seed, epoch, step, process) alone."""
    return torch.rand(layers, pairs, 2, generator=generator(*key))


def generator(*key: int) -> torch.Generator:
    """A random generator that depends on nothing but `key`."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return torch.Generator().manual_seed(seed)


def epoch_batches(pairs: int, bsz: int, processes: int, *key: int) -> Iterator[list[int]]:
    """Indices of a shuffled epoch's batches; a last batch with fewer than two pairs a process is dropped."""
    order = torch.randperm(pairs, generator=generator(*key)).tolist()
    for first in range(0, pairs, bsz):
        batch = order[first : first + bsz]
        if len(batch) >= 2 * processes:
            yield batch
