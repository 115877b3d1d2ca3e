"""Metrics: functions from the table of predictions to values by pair or by key-point (docs/method.md, section 8).

A metric is called as `metric(table, benchmark, alphas, thres)` and returns what is averaged: each figure's definition
{name, unit, definition (in words), basis (how it is taken, in words), average ('pairs', 'key-points' or, of the means
over each category's key-points, 'categories'), frame, ...} with a series of values indexed by pair. A benchmark names
its metric; which of the figures are the paper's, it says, too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from skimage.draw import polygon

from dhpf.common.errors import UserError
from dhpf.data.benchmark import Benchmark

Reals = NDArray[np.float64]
Figure = dict[str, Any]  # a definition, perhaps with a value
Measure = tuple[Figure, pd.Series]  # a definition; its values by pair or by key-point, indexed by pair
Metric = Callable[[pd.DataFrame, type[Benchmark], Sequence[float], str], list[Measure]]

AVERAGES = {"pairs": 'pairs ("per image")', "key-points": 'key-points ("per point")'}  # as papers call them


def to_float64(x: torch.Tensor) -> torch.Tensor:
    """A tensor in float64, on the CPU if its device has no such numbers (Apple's MPS)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def keypoint_errors(
    predicted: torch.Tensor, target: torch.Tensor, n_pts: torch.Tensor, pckthres: torch.Tensor, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which key-points are predicted within alpha * pckthres (`<=`), and how far off each is (section 8).

    Both sides of the comparison are computed in float64 and rounded to float32, the precision of the
    coordinates: a point exactly on the limit counts, whatever the binary fraction of alpha.

    Args:
        predicted, target: [B, 2, P] in one frame, padded beyond n_pts [B].
        pckthres: [B], in pixels of that frame.
    Returns:
        Correct [B, P] bool; distance [B, P] float32, infinite for padding and without prediction (NaN).
    """
    distance = (to_float64(predicted) - to_float64(target)).square().sum(1).sqrt().float()
    limit = (to_float64(pckthres) * alpha).float()
    present = torch.arange(distance.shape[1], device=distance.device) < n_pts.to(distance.device)[:, None]
    distance = distance.where(present & ~distance.isnan(), torch.inf)
    return (distance <= limit[:, None]).to(predicted.device), distance.to(predicted.device)


def with_points(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the pairs that have key-points, indexed by pair."""
    return table[table.n_pts > 0].set_index("pair")


def threshold_extents(
    table: pd.DataFrame, benchmark: type[Benchmark], thres: str
) -> tuple[str, str, np.ndarray]:
    """The threshold's name and definition, and for each row of `with_points` the width and height, in the frame,
    whose larger one it is: [n, 2].

    Raises: UserError: the benchmark cannot give the threshold.
    """
    side, auto = int(table.img_side.iloc[0]), table.auto_thres.iloc[0]
    kind, table = auto if thres == "auto" else thres, with_points(table)
    target = table[["target_x", "target_y"]]
    by_pair = target.groupby(level=0)
    extents = {
        "img": ("larger side of the target image", np.full(target.shape, side, np.float32)),
        "bbox": (benchmark.bbox_definition, table[["bbox_width", "bbox_height"]].to_numpy()),
        "bbox-kp": (
            "larger side of the target key-points' extent",
            (by_pair.transform("max") - by_pair.transform("min")).to_numpy(),
        ),
    }
    possible = [name for name, (_, extent) in extents.items() if not np.isnan(extent).any()]
    if kind not in possible:
        choice = ", ".join(["auto", *possible])
        raise UserError(f"--thres {thres}: {benchmark.name} has {choice}")
    return kind, *extents[kind]


SHARES = {  # by average
    "pairs": "mean over pairs of the share of",
    "key-points": "share of all",
    "categories": "mean over categories of the share of",
}


@dataclass(frozen=True)
class Hits:
    """Which key-points are predicted right at one alpha in one frame.

    rows: as `with_points`.  frame, kind, threshold: the frame in words, the threshold's name and definition.
    scale: pixels of the frame by pixels of the img_side frame, [n, 2].  limit: the threshold in its pixels, [n].
    """

    rows: pd.DataFrame
    alpha: float
    frame: str
    kind: str
    threshold: str
    scale: Reals
    limit: Reals

    def points(self, end: str) -> Reals:
        """The points of an end (`target`, `predicted`) in the frame, [n, 2]."""
        return self.rows[[f"{end}_x", f"{end}_y"]].to_numpy() * self.scale

    @property
    def words(self) -> str:
        return f"predicted within {self.alpha:g} x threshold (<=)"

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Which predictions are within alpha of the threshold, [n]."""
        return self.within(self.points("target"))

    def within(self, points: Reals) -> NDArray[np.bool_]:
        """Which predictions lie within alpha of the threshold of points [n, 2] of the frame; none of NaN."""
        found, true = (torch.from_numpy(xy)[:, :, None] for xy in (self.points("predicted"), points))
        one, limit = torch.ones(len(self.limit)), torch.from_numpy(self.limit)
        return keypoint_errors(found, true, one, limit, self.alpha)[0][:, 0].numpy()

    def measures(
        self,
        name: str,
        text: str,
        correct: NDArray[np.bool_],
        averages: Sequence[str] = tuple(SHARES),
        chosen: NDArray[np.bool_] | None = None,
    ) -> list[Measure]:
        """The share of key-points that are correct, of those chosen, in %; NaN where the threshold is zero.

        Args: name, text: the figure's name before '@', and in words what is correct.
        """
        percent = pd.Series(correct * 100.0, self.rows.index).where(self.limit > 0)
        percent = percent if chosen is None else percent.where(chosen)
        if percent.isna().all() and chosen is not None:
            return []
        measures = []
        for average in averages:
            basis = f"threshold {self.kind} = {self.threshold}, {self.frame}"
            definition = {
                "name": f"{name}@{self.alpha:g}", "unit": "%", "alpha": self.alpha, "thres": self.kind,
                "definition": f"{SHARES[average]} {text}",
                "basis": f"each the share of its key-points, {basis}" if average == "categories" else basis,
                "average": average, "frame": self.frame,
            }  # fmt: skip
            values = percent.groupby(level=0).mean() if average == "pairs" else percent
            measures.append((definition, values))
        return measures


def all_hits(
    table: pd.DataFrame, benchmark: type[Benchmark], alphas: Sequence[float], thres: str
) -> Iterator[Hits]:
    """For every alpha, in the frame and in original pixels. Raises: UserError: as `threshold_extents`."""
    kind, threshold, extent = threshold_extents(table, benchmark, thres)
    side, rows = int(table.img_side.iloc[0]), with_points(table)
    frames = {  # pixels per pixel of the img_side x img_side frame
        f"{side}x{side} frame": np.ones((len(rows), 2)),
        "original pixels": rows[["target_width", "target_height"]].to_numpy() / side,
    }
    for alpha, (frame, scale) in product(alphas, frames.items()):
        yield Hits(rows, alpha, frame, kind, threshold, scale, (extent * scale).max(1))


def pck(
    table: pd.DataFrame, benchmark: type[Benchmark], alphas: Sequence[float], thres: str
) -> list[Measure]:
    """PCK for every alpha, in the frame and in original pixels, by pair and by key-point (section 8).

    It is NaN where the threshold is zero, within which nothing is.
    Raises: UserError: the benchmark cannot give the threshold.
    """
    measures: list[Measure] = []
    for hits in all_hits(table, benchmark, alphas, thres):
        measures += hits.measures("PCK", f"key-points {hits.words}", hits.correct)
    return measures


CORNERS = {  # what becomes of a predicted corner that has no prediction: suffix of the name, and definition
    "as published": ("", "one corner without prediction leaves nothing of an outline, as published"),
    "left out": (" (corners left out)", "corners without prediction left out"),
}


def outlines(
    table: pd.DataFrame, benchmark: type[Benchmark], alphas: Sequence[float], thres: str
) -> list[Measure]:
    """How the transferred outline agrees with the target's own, both filled, by pair; no alpha, no threshold."""
    side, table = int(table.img_side.iloc[0]), with_points(table)
    frame = f"{side}x{side} frame"

    def fill(outline: np.ndarray) -> np.ndarray:
        mask = np.zeros((side, side), dtype=bool)
        if len(outline) and not np.isnan(outline).any():
            x, y = outline.astype(np.float64).T
            mask[polygon(y, x, mask.shape)] = True
        return mask

    values: dict[str, dict[str, dict[Any, float]]] = {c: {"LT-ACC": {}, "IoU": {}} for c in CORNERS}
    for pair, rows in table.groupby(level=0):
        # The published program takes as many points as have x > 0: one at x = 0 drops the last.
        target = fill(rows[["target_x", "target_y"]].to_numpy()[: (rows.target_x > 0).sum()])
        # Rows beyond n_pts are the target's alone, if its outline has more corners.
        corners = rows[["predicted_x", "predicted_y"]].to_numpy()[: rows.n_pts.iloc[0]]
        for treatment, by_name in values.items():
            left_out = np.isnan(corners).any(1) & (treatment == "left out")
            predicted = fill(corners[~left_out])
            union = (predicted | target).sum()
            by_name["LT-ACC"][pair] = (predicted == target).mean()
            by_name["IoU"][pair] = (predicted & target).sum() / union if union else np.nan

    definitions = {
        "LT-ACC": "mean over pairs of the share of pixels with equal labels",
        "IoU": "mean over pairs of intersection over union",
    }
    measures = []
    for (treatment, (suffix, meaning)), (name, text) in product(CORNERS.items(), definitions.items()):
        basis = f"filled outlines, transferred and annotated, {frame}; {meaning}"
        definition = {"name": name + suffix, "unit": "", "definition": text, "basis": basis}
        definition |= {"average": "pairs", "frame": frame, "corners": treatment}
        measures.append((definition, pd.Series(values[treatment][name], dtype="float64")))
    return measures
