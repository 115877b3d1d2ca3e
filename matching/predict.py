"""Predictions for the pairs of a benchmark: every image is encoded once, every pair compared once."""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from dhpf.data.benchmark import Benchmark
from dhpf.data.image_annotation import parse_points
from dhpf.data.loading import load, skip_or_raise
from dhpf.evaluation.predictions import PairRows, rows_of
from dhpf.matching.keypoint_precision import keypoint_scores
from dhpf.model.compiled import CompiledDHPF
from dhpf.model.dhpf import DHPF
from dhpf.model.features import ImageFeatures


@dataclass(frozen=True)
class LoadingConfig:
    """How pairs are read and how much is kept of them.

    workers: processes that read images.
    batch_size: pairs that are compared together, on a GPU.
    cache_bytes: of image features that are kept at most, the last used, beside those of a batch.
    on_bad_pair: 'stop', or 'skip' what cannot be read.
    """

    workers: int = 0
    batch_size: int = 1
    cache_bytes: float = 2e9
    on_bad_pair: str = "stop"


class EncodingStep(NamedTuple):
    """A batch of pairs, the images to encode before it is compared, and those to drop afterwards."""

    pairs: list[int]
    to_encode: list[str]
    to_drop: list[str]


def plan_encoding(
    keys: Sequence[tuple[str, str]], batches: Iterable[list[int]], capacity: int
) -> list[EncodingStep]:
    """Which images each batch of pairs has to encode, and which features it drops, least recently used first.

    Args:
        keys: the two images of every pair.
        batches: indices of pairs.
        capacity: number of features to keep; a batch that needs more keeps its own.
    """
    cached: OrderedDict[str, None] = OrderedDict()
    steps = []
    for batch in batches:
        needed = list(dict.fromkeys(key for i in batch for key in keys[i]))
        missing = [key for key in needed if key not in cached]
        for key in needed:
            cached[key] = None
            cached.move_to_end(key)
        excess = len(cached) - max(capacity, len(needed))
        steps.append(EncodingStep(batch, missing, [cached.popitem(last=False)[0] for _ in range(excess)]))
    return steps


def image_keys(benchmark: Benchmark) -> list[tuple[str, str]]:
    """The two images of every pair."""
    return [(pair.src_key, pair.trg_key) for pair in benchmark.pairs]


def order_by_images(benchmark: Benchmark) -> list[int]:
    """The pairs of a benchmark, sorted so that those which share an image are near each other."""
    keys = image_keys(benchmark)
    return sorted(range(len(keys)), key=keys.__getitem__)


@dataclass(frozen=True)
class EncodedBatch:
    """A batch of pairs whose images are encoded.

    parts: the annotations, in parts that are compared together.
    features: of each image, by key; of other batches, too.
    unread: what could not be read, and why.
    waited: seconds that the model waited for what was to be read.
    """

    parts: list[dict[str, Any]]
    features: dict[str, ImageFeatures]
    unread: list[str]
    waited: float

    def pair_features(self, part: dict[str, Any]) -> tuple[ImageFeatures, ImageFeatures]:
        """The features of a part's source and target images."""
        ends = part["src_key"], part["trg_key"]
        source, target = (ImageFeatures.cat([self.features[key] for key in keys]) for keys in ends)
        return source, target


@torch.no_grad()
def predict(
    model: DHPF | CompiledDHPF,
    benchmark: Benchmark,
    pairs: Sequence[int],
    loading: LoadingConfig,
    on_progress: Callable[[int], None],
    on_rows: Callable[[PairRows], None] = lambda _: None,
    kap: Sequence[float] = (),
) -> tuple[PairRows, list[str], float]:
    """Predicted key-points of some pairs of a benchmark.

    Args:
        pairs: their indices.
        on_progress: called with the number of pairs done since the last call.
        on_rows: called with the rows of pairs as they are done.
        kap: alphas of the scores for `evaluation.measures.kap` that rows get, where all visible points are known.
    Returns:
        The rows of the pairs that were not skipped (see `table_of`), what could not be read and why, and how many
        seconds the model waited for what was to be read.
    Raises:
        UserError: a pair cannot be read and may not be skipped.
    """
    model.eval()
    size = loading.batch_size
    batches = [list(pairs[b : b + size]) for b in range(0, len(pairs), size)]
    rows: PairRows = {}
    unread: list[str] = []
    waited = 0.0
    for batch, encoded in zip(batches, encode_batches(model, benchmark, batches, loading), strict=True):
        waited += encoded.waited
        unread += encoded.unread
        for part in encoded.parts:
            matches = model.compare(*encoded.pair_features(part))
            points = part["src_kps"][:, :, : max(1, int(part["n_pts"].max()))]
            predicted = matches.transfer(points.to(model.device, non_blocking=True))
            done = rows_of(part, predicted.cpu(), benchmark, matches.selection.cpu())
            for i, pair in enumerate(part["index"].tolist() if kap else ()):
                source, target = (parse_points(part[f"{end}_visible"][i]) for end in ("src", "trg"))
                if source and target:
                    threshold = float(part["pckthres"][i])
                    scores = keypoint_scores(matches[i : i + 1], source, target, threshold, kap)
                    by_alpha = {f"{benchmark.thres}@{alpha:g}": listed for alpha, listed in scores.items()}
                    done[pair].known["kap"] = json.dumps(by_alpha)
            on_rows(done)
            rows |= done
        on_progress(len(batch))
    return rows, unread, waited


@torch.no_grad()
def encode_batches(
    model: DHPF | CompiledDHPF, benchmark: Benchmark, batches: Sequence[list[int]], loading: LoadingConfig
) -> Iterator[EncodedBatch]:
    """Batches of pairs, one after another, with the features of their images, which are valid until the next batch.

    Raises: UserError: a pair cannot be read and may not be skipped.
    """
    on_gpu = model.device.type == "cuda"
    frame = benchmark.img_side
    benchmark.prepare_for(model.backbone)
    blank = model.backbone.blank(frame).to(model.device)
    capacity = int(loading.cache_bytes) // model.encode(blank, frame).nbytes
    steps = plan_encoding(image_keys(benchmark), batches, capacity)
    to_encode = [step.to_encode for step in steps if step.to_encode]
    images = load(partial(_image, benchmark), to_encode, loading.workers, pin=on_gpu)
    annotations = load(benchmark.annotation, batches, min(loading.workers, 1))
    features: dict[str, ImageFeatures] = {}
    for step in steps:
        begin = time.monotonic()
        batch, unread = next(annotations)
        loaded, undecoded = next(images) if step.to_encode else (None, [])
        waited = time.monotonic() - begin
        if loaded is not None:
            features |= _encode(model, frame, *loaded)
        unread = skip_or_raise(unread + undecoded, loading.on_bad_pair)
        parts = _parts(batch, features, model.one_by_one or not on_gpu) if batch else []
        yield EncodedBatch(parts, features, unread, waited)
        for key in step.to_drop:
            features.pop(key, None)


def _image(benchmark: Benchmark, key: str) -> tuple[str, torch.Tensor]:
    return key, benchmark.image(key)


def _encode(
    model: DHPF | CompiledDHPF, frame: int, keys: Sequence[str], images: torch.Tensor
) -> dict[str, ImageFeatures]:
    """The features of images by key, each a copy, so that one can be freed without the others."""
    encoded = model.encode(images.to(model.device, non_blocking=True), frame)
    return {key: encoded[torch.tensor([i], device=model.device)] for i, key in enumerate(keys)}


def _parts(batch: dict[str, Any], features: Collection[str], single: bool) -> list[dict[str, Any]]:
    """The pairs of a batch whose images are encoded, one by one or together."""
    keys = zip(batch["src_key"], batch["trg_key"], strict=True)
    readable = [i for i, (src, trg) in enumerate(keys) if src in features and trg in features]
    groups = [[i] for i in readable] if single else [readable] * bool(readable)
    return [
        {
            name: values[torch.tensor(group)]
            if isinstance(values, torch.Tensor)
            else [values[i] for i in group]
            for name, values in batch.items()
        }
        for group in groups
    ]
