"""Evaluation of a benchmark: every image encoded once, every pair compared once."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dhpf.data.benchmark import Benchmark
from dhpf.data.loading import load, skip_or_raise
from dhpf.evaluation.predictions import PairRows, rows_of
from dhpf.model.compiled import CompiledDHPF
from dhpf.model.dhpf import DHPF
from dhpf.model.features import ImageFeatures

Plan = list[tuple[list[int], list[str], list[str]]]


def plan(keys: Sequence[tuple[str, str]], batches: Iterable[list[int]], capacity: int) -> Plan:
    """Which images each batch of pairs has to encode, and which features it drops, least recently used first.

    Args:
        keys: the two images of every pair.
        batches: indices of pairs.
        capacity: number of features to keep; a batch that needs more keeps its own.
    """
    kept: OrderedDict[str, None] = OrderedDict()
    steps = []
    for batch in batches:
        needed = list(dict.fromkeys(key for i in batch for key in keys[i]))
        missing = [key for key in needed if key not in kept]
        for key in needed:
            kept[key] = None
            kept.move_to_end(key)
        dropped = [kept.popitem(last=False)[0] for _ in range(len(kept) - max(capacity, len(needed)))]
        steps.append((batch, missing, dropped))
    return steps


def in_order(benchmark: Benchmark) -> list[int]:
    """The pairs of a benchmark, those that share an image as near each other as their names are."""
    keys = [(pair.src_key, pair.trg_key) for pair in benchmark.pairs]
    return sorted(range(len(keys)), key=keys.__getitem__)


class FeatureCache:
    """Image features by key, made and dropped as a plan says; `frame`: its side, pixels."""

    def __init__(self, model: DHPF | CompiledDHPF, frame: int) -> None:
        self.model, self.frame = model, frame
        self.features: dict[str, ImageFeatures] = {}

    def encode(self, keys: list[str], images: torch.Tensor) -> None:
        features = self.model.encode(images, self.frame)
        for i, key in enumerate(keys):  # a copy of each: the rest can be freed
            self.features[key] = features[torch.tensor([i], device=images.device)]

    def __call__(self, keys: Sequence[str]) -> ImageFeatures:
        return ImageFeatures.cat([self.features[key] for key in keys])


@torch.no_grad()
def predict(
    model: DHPF | CompiledDHPF,
    benchmark: Benchmark,
    indices: Sequence[int],
    bsz: int,
    workers: int,
    memory: float,
    on_bad_pair: str,
    progress: Callable[[int], None],
    keep: Callable[[PairRows], None] = lambda _: None,
) -> tuple[PairRows, list[str], float]:
    """Predicted key-points of some pairs of a benchmark.

    Args:
        indices: the pairs.
        memory: bytes of image features that are kept at most, the last used; beside those of a batch.
        on_bad_pair: 'stop', or 'skip' what cannot be read.
        progress: called with the number of pairs done since the last call.
        keep: called with the rows of pairs as they are done.
    Returns:
        The rows of the pairs that were not skipped (see `table_of`), what could not be read and why, and how many
        seconds the model waited for what was to be read.
    Raises:
        UserError: a pair cannot be read and may not be skipped.
    """
    model.eval()
    batches = [list(indices[b : b + bsz]) for b in range(0, len(indices), bsz)]
    rows: PairRows = {}
    skipped: list[str] = []
    waited = 0.0
    for step in encoded(model, benchmark, batches, workers, memory, on_bad_pair):
        waited += step.waited
        skipped += step.unread
        for part in step.parts:
            done = _compare(model, step.features, benchmark, part)
            keep(done)
            rows |= done
        progress(step.pairs)
    return rows, skipped, waited


@dataclass(frozen=True)
class EncodedBatch:
    """A batch of pairs whose images are encoded.

    parts: the annotations, in parts that are compared together.
    pairs: how many there are.  unread: what could not be read.  waited: seconds, for what was to be read.
    """

    parts: list[dict[str, Any]]
    features: FeatureCache
    pairs: int
    unread: list[str]
    waited: float


@torch.no_grad()
def encoded(
    model: DHPF | CompiledDHPF,
    benchmark: Benchmark,
    batches: Sequence[list[int]],
    workers: int,
    memory: float,
    on_bad_pair: str,
) -> Iterator[EncodedBatch]:
    """Batches of pairs, one after another, with the features of their images; arguments and errors as for `predict`."""
    device = model.device
    keys = [(pair.src_key, pair.trg_key) for pair in benchmark.pairs]
    frame = benchmark.img_side
    side = benchmark.picture_side = model.backbone.input_size_for(frame)
    capacity = int(memory) // model.encode(torch.zeros(1, 3, side, side, device=device), frame).nbytes
    steps = plan(keys, batches, capacity)
    pin = device.type == "cuda"
    images = load(partial(_image, benchmark), [missing for _, missing, _ in steps if missing], workers, pin)
    annotations = load(benchmark.annotation, batches, min(workers, 1))
    features = FeatureCache(model, frame)
    for _, missing, dropped in steps:
        begin = time.monotonic()
        batch, problems = next(annotations)
        found, undecoded = next(images) if missing else (None, [])
        waited = time.monotonic() - begin
        if found is not None:
            features.encode(list(found[0]), found[1].to(device, non_blocking=True))
        unread = skip_or_raise(problems + undecoded, on_bad_pair)
        parts = [] if batch is None else _parts(batch, features, model.one_by_one or device.type != "cuda")
        yield EncodedBatch(parts, features, 0 if batch is None else len(batch["index"]), unread, waited)
        for key in dropped:
            features.features.pop(key, None)


def _image(benchmark: Benchmark, key: str) -> tuple[str, torch.Tensor]:
    return key, benchmark.image(key)


def _parts(batch: dict[str, Any], features: FeatureCache, single: bool) -> list[dict[str, Any]]:
    """The pairs of a batch whose images are encoded, one by one or together."""
    both = zip(batch["src_key"], batch["trg_key"], strict=True)
    good = [i for i, (s, t) in enumerate(both) if s in features.features and t in features.features]
    groups = [[i] for i in good] if single else [good] * bool(good)
    return [
        {
            k: v[torch.tensor(g)] if isinstance(v, torch.Tensor) else [v[i] for i in g]
            for k, v in batch.items()
        }
        for g in groups
    ]


def _compare(
    model: DHPF | CompiledDHPF, features: FeatureCache, benchmark: Benchmark, batch: dict[str, Any]
) -> PairRows:
    matches = model.compare(features(batch["src_key"]), features(batch["trg_key"]))
    points = batch["src_kps"][:, :, : max(1, int(batch["n_pts"].max()))]
    predicted = matches.transfer(points.to(model.device, non_blocking=True))
    return rows_of(batch, predicted.cpu(), benchmark, matches.selection.cpu())
