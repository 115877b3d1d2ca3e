"""PCK of static subsets of layers, many at once (docs/search.md)."""

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch

from dhpf.evaluation.metrics import keypoint_errors
from dhpf.matching.predict import FeatureCache
from dhpf.model.dhpf import DHPF
from dhpf.model.layer_subsets import layer_sums

Subset = tuple[int, ...]  # ascending layers
Candidates = Mapping[Subset, tuple[Subset, int]]  # by subset: the one that it adds a layer to, and that layer
Shares = dict[int, list[float]]  # by pair: the PCK of every candidate in percent, NaN without key-points


@torch.no_grad()
def shares(
    model: DHPF, features: FeatureCache, part: dict[str, Any], candidates: Candidates, alpha: float
) -> Shares:
    """What every candidate gets of the pairs of a part.

    A candidate is a sum that others share, with one layer added: see `model.subsets`.
    """
    layers = layer_sums(features(part["src_key"]), features(part["trg_key"]), model.layer_of_channel)
    sums = {parent: reduce(add, [layers[k] for k in parent]) for parent, _ in candidates.values() if parent}
    n_pts = part["n_pts"]
    longest = max(1, int(n_pts.max()))
    source, target = (part[f"{end}_kps"][:, :, :longest] for end in ("src", "trg"))
    source = source.to(model.device, non_blocking=True)
    found = []
    for parent, layer in candidates.values():
        added = sums[parent] + layers[layer] if parent else layers[layer]
        moved = added.matches(model.voting).transfer(source).cpu()
        correct, _ = keypoint_errors(moved, target, n_pts, part["pckthres"], alpha)
        found.append(100 * correct.sum(1).double() / n_pts)
    return dict(zip(part["index"].tolist(), torch.stack(found, 1).tolist(), strict=True))
