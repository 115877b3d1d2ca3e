"""Training with strong or weak supervision (docs/method.md, section 7)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dhpf.evaluation.metrics import keypoint_errors
from dhpf.model.dhpf import DHPF
from dhpf.model.grid import nearest_cells
from dhpf.model.losses import entropies, keypoint_weights, selection_loss, strong_loss

Batch = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What B pairs gave: the loss, each pair's PCK in percent (NaN without key-points), selection B'×K."""

    loss: Tensor
    pck: Tensor
    selection: Tensor


def strong_step(model: DHPF, batch: Batch, alpha: float, rate: float, noise: Tensor | None) -> Step:
    """Forward pass with key-point supervision; `rate` is μ, `noise` as in `DynamicGating`."""
    matches = model(batch["src_img"], batch["trg_img"], noise=noise)
    src_kps, trg_kps, n_pts, threshold = _keypoints(batch)
    correct, distance = keypoint_errors(matches.transfer(src_kps), trg_kps, n_pts, threshold, alpha)
    weights = keypoint_weights(distance, alpha * threshold, n_pts)
    source, target = (nearest_cells(kps, matches.side) for kps in (src_kps, trg_kps))
    loss = strong_loss(matches.scores.rows(source), target, weights)
    return Step(
        loss + selection_loss(matches.selection, rate), _pck(correct, n_pts), matches.selection.detach()
    )


def weak_step(model: DHPF, batch: Batch, alpha: float, rate: float, noise: Tensor | None) -> Step:
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
    src, trg = model.codes(batch["src_img"], batch["trg_img"], (src_index, trg_index))
    matches = model.compare(src, trg, noise)
    entropy = entropies(matches.scores, matches.side)
    loss = entropy[:B].mean() / (entropy[B:].mean() if len(entropy) > B else 1)
    src_kps, trg_kps, n_pts, threshold = _keypoints(batch)
    correct, _ = keypoint_errors(matches[:B].transfer(src_kps), trg_kps, n_pts, threshold, alpha)
    return Step(
        loss + selection_loss(matches.selection, rate), _pck(correct, n_pts), matches.selection.detach()
    )


Supervision = Callable[[DHPF, Batch, float, float, Tensor | None], Step]


def _keypoints(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Source and target key-points without needless padding, their number, the threshold of PCK."""
    longest = max(1, int(batch["longest"]))
    return batch["src_kps"][..., :longest], batch["trg_kps"][..., :longest], batch["n_pts"], batch["pckthres"]


def _pck(correct: Tensor, n_pts: Tensor) -> Tensor:
    return 100 * correct.sum(1) / n_pts


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
