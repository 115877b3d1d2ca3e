"""Time of a subset of layers in a search: one layer added to a sum, and compared anew (docs/search.md)."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import reduce
from operator import add

import torch

from dhpf.model import BACKBONES
from dhpf.model.ablation import Ablation
from dhpf.model.layer_subsets import layer_sums
from dhpf.weights.checkpoint import build_model
from dhpf.weights.config import ModelConfig

SUBSETS, REPEATS = 4, 3  # of each size; the least time of some repeats counts


def milliseconds(compute: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        compute()
        times.append(1000 * (time.perf_counter() - begin))
    return min(times)


@torch.no_grad()
def measure(backbone: str, weights: str | None, img_side: int, most: int) -> None:
    """Print the times of subsets of one layer to `most`, drawn at random."""
    model = build_model(ModelConfig(backbone), weights).eval()
    model.ablate(Ablation(raw=True))
    torch.manual_seed(0)
    source, target = (model.encode(torch.randn(1, 3, img_side, img_side)) for _ in range(2))
    points, K = torch.rand(1, 2, 10) * img_side, len(model.backbone.channels)
    layers = layer_sums(source, target, model.layer_of_channel)
    every = milliseconds(lambda: layer_sums(source, target, model.layer_of_channel))
    print(f"{backbone}, {torch.get_num_threads()} threads; products of all {K} layers: {every:.0f} ms")
    whole = []
    for size in range(1, most + 1):
        times = []
        for _ in range(SUBSETS):
            *parent, layer = torch.randperm(K)[:size].tolist()
            parts = [reduce(add, [layers[k] for k in parent])] if parent else []
            model.ablate(Ablation(tuple(sorted((*parent, layer))), raw=True))
            times.append((
                milliseconds(lambda: reduce(add, [*parts, layers[layer]]).matches("hough").transfer(points)),  # noqa: B023
                milliseconds(lambda: model.compare(source, target).transfer(points)),
            ))  # fmt: skip
        added, anew = (statistics.mean(column) for column in zip(*times, strict=True))
        whole += times
        print(f"{size} layers: added {added:.0f} ms, anew {anew:.0f} ms", flush=True)
    added, anew = map(sum, zip(*whole, strict=True))
    print(f"all: {added / anew:.2f} of the time of comparing anew")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what a search for layers saves.")
    parser.add_argument("--backbone", default="efficientnet_lite0", choices=BACKBONES)
    parser.add_argument("--backbone-weights", help="a file, or 'random'")
    parser.add_argument("--img-side", type=int, default=240)
    parser.add_argument("--max-layers", type=int, default=8)
    options = parser.parse_args()
    measure(options.backbone, options.backbone_weights, options.img_side, options.max_layers)
