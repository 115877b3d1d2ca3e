"""Small tables of predictions, made from lists of points."""

from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import strategies as st
from torch.utils.data import default_collate

from dhpf.data import BENCHMARKS
from dhpf.data.spair import DIFFICULTY, SPair
from dhpf.evaluation import predictions

SIDE, MAX_PTS = 20, 8  # of the frame in pixels; key-points of a pair

# Integer coordinates far beyond the frame's borders, so that predictions may lie exactly on a limit.
coordinates = st.integers(-10, 30)
whole_points = st.tuples(coordinates, coordinates)


class Toy(SPair):
    """A benchmark with every kind of label."""

    name = "toy"
    labels = MappingProxyType({"leaked": ("no", "yes"), **DIFFICULTY})
    paper = MappingProxyType({})


BENCHMARKS["toy"] = Toy


def benchmark(name: str = "toy") -> Any:
    """What the table reads of an opened benchmark."""
    cls = BENCHMARKS[name]
    return SimpleNamespace(
        name=name, split="test", img_side=SIDE, auto_thres=cls.auto_thres, labels=cls.labels
    )


def make_pair(
    index: int, source: Any, target: Any, predicted: Any, **changes: Any
) -> tuple[dict[str, Any], torch.Tensor]:
    """A sample and its prediction from lists of (x, y); None: no prediction."""

    def padded(xy: Any) -> torch.Tensor:
        kps = torch.full((2, MAX_PTS), -1.0)
        if len(xy):
            kps[:, : len(xy)] = torch.tensor(np.array(xy, np.float32)).T
        return kps

    sample = {
        "index": index, "src_key": f"{index}a.jpg", "trg_key": f"{index}b.jpg", "category": "cat",
        "n_pts": len(source), "n_trg_pts": len(target), "src_kps": padded(source), "trg_kps": padded(target),
        "points": "", "trg_visible": "", "azimuth_difference": -1,
        "trg_size": torch.tensor([SIDE, SIDE]), "bbox_extent": torch.tensor([20.0, 10.0]),
    } | dict.fromkeys(Toy.labels, -1) | changes  # fmt: skip
    nan = (float("nan"), float("nan"))
    return sample, padded([nan if xy is None else xy for xy in predicted])[:, : len(source)]


def random_pairs(seed: int, number: int) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """Pairs of an own index each; every fifth has no key-point."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(number):
        n = 0 if index % 5 == 4 else int(rng.integers(1, MAX_PTS + 1))
        target = rng.uniform(0, SIDE, (n, 2))
        pairs.append(make_pair(index, target, target, target + rng.normal(0, 1.5, (n, 2))))
    return pairs


def rows_of(pairs: list, name: str = "toy", selection: torch.Tensor | None = None) -> predictions.PairRows:
    samples, predicted = zip(*pairs, strict=True)
    return predictions.rows_of(default_collate(list(samples)), predicted, benchmark(name), selection)


def table_of(pairs: list, name: str = "toy", selection: torch.Tensor | None = None) -> pd.DataFrame:
    return predictions.table_of(rows_of(pairs, name, selection), list(benchmark(name).labels))
