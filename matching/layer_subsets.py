"""PCK of static subsets of layers, many at once (docs/search.md)."""

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch

from dhpf.evaluation.metrics import keypoint_errors
from dhpf.model.dhpf import DHPF
from dhpf.model.features import ImageFeatures
from dhpf.model.layer_subsets import layer_sums

Subset = tuple[int, ...]  # ascending layers
Candidates = Mapping[Subset, tuple[Subset, int]]  # by subset: the one that it adds a layer to, and that layer
SubsetPCK = dict[int, list[float]]  # by pair: the PCK of every candidate in percent, NaN without key-points


@torch.no_grad()
def subset_pck(
    model: DHPF,
    features: tuple[ImageFeatures, ImageFeatures],
    batch: dict[str, Any],
    candidates: Candidates,
    alpha: float,
) -> SubsetPCK:
    """The PCK of every candidate for the pairs of a batch.

    A candidate is a sum that others share, with one layer added (see `model.layer_subsets`).
    Args: features: of the source and the target images; batch: the annotations, collated.
    """
    layers = layer_sums(*features, model.layer_of_channel)
    sums = {parent: reduce(add, [layers[k] for k in parent]) for parent, _ in candidates.values() if parent}
    n_pts = batch["n_pts"]
    longest = max(1, int(n_pts.max()))
    source, target = (batch[f"{end}_kps"][:, :, :longest] for end in ("src", "trg"))
    source = source.to(model.device, non_blocking=True)
    pck = []
    for parent, layer in candidates.values():
        subset = sums[parent] + layers[layer] if parent else layers[layer]
        predicted = subset.matches(model.voting, model.decoder).transfer(source).cpu()
        correct, _ = keypoint_errors(predicted, target, n_pts, batch["pckthres"], alpha)
        pck.append(100 * correct.sum(1).double() / n_pts)
    return dict(zip(batch["index"].tolist(), torch.stack(pck, 1).tolist(), strict=True))
