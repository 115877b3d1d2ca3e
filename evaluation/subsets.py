"""PCK of static subsets of layers, many at once (docs/search.md)."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import Any

import torch

from dhpf.data.benchmark import Benchmark
from dhpf.data.loading import load, tolerated
from dhpf.evaluation.metrics import keypoint_errors
from dhpf.evaluation.predict import Codes, image_of, parts_of, plan
from dhpf.model.dhpf import DHPF
from dhpf.model.subsets import layer_sums

Subset = tuple[int, ...]  # ascending layers
Candidates = Mapping[Subset, tuple[Subset, int]]  # by subset: the one that it adds a layer to, and that layer
Shares = dict[int, list[float]]  # by pair: the PCK of every candidate in percent, NaN without key-points


@torch.no_grad()
def encoded(
    model: DHPF,
    benchmark: Benchmark,
    batches: Sequence[list[int]],
    workers: int,
    memory: float,
    on_bad_pair: str,
) -> Iterator[tuple[list[dict[str, Any]], Codes, list[str]]]:
    """For batches of pairs their annotations, in parts that are compared together, the codes of their images, and what
    could not be read.

    Args: memory: bytes of codes that are kept at most, the last used; beside those of a batch.
    Raises: UserError: a pair cannot be read and may not be skipped.
    """
    device, side = model.device, benchmark.img_side
    keys = [(pair.src_key, pair.trg_key) for pair in benchmark.pairs]
    capacity = int(memory) // model.encode(torch.zeros(1, 3, side, side, device=device)).nbytes
    steps = plan(keys, batches, capacity)
    asked = [missing for _, missing, _ in steps if missing]
    images = load(partial(image_of, benchmark), asked, workers, device.type == "cuda")
    annotations = load(benchmark.annotation, batches, min(workers, 1))
    codes = Codes(model)
    for _, missing, dropped in steps:
        batch, unread = next(annotations)
        found, undecoded = next(images) if missing else (None, [])
        if found is not None:
            codes.encode(list(found[0]), found[1].to(device, non_blocking=True))
        parts = [] if batch is None else parts_of(batch, codes, device.type == "cpu")
        yield parts, codes, tolerated(unread + undecoded, on_bad_pair)
        for key in dropped:
            codes.codes.pop(key, None)


@torch.no_grad()
def shares(model: DHPF, codes: Codes, part: dict[str, Any], candidates: Candidates, alpha: float) -> Shares:
    """What every candidate gets of the pairs of a part.

    A candidate is a sum that others share, with one layer added: see `model.subsets`.
    """
    layers = layer_sums(codes(part["src_key"]), codes(part["trg_key"]), model.layer_of_channel)
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
