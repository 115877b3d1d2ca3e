"""Scoring: one table of predicted key-points, from which every figure of every benchmark is computed.

The table has one row per key-point, in the order of `COLUMNS`; what belongs to the pair is repeated on its
rows. A pair without key-points keeps one row, with `point` = -1: it has no PCK, is left out of every mean and
counted. Coordinates are pixels of the img_side x img_side frame; a prediction of NaN means there is none.
What is measured is section 8 of the specification.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from skimage.draw import polygon

from dhpf.common.errors import UserError
from dhpf.data.benchmark import Benchmark

COLUMNS: dict[str, str] = {
    "benchmark": "str", "split": "str", "img_side": "int64", "auto_thres": "str",
    "pair": "int64", "source": "str", "target": "str", "category": "str", "n_pts": "int64",
    "target_width": "int64", "target_height": "int64",  # of the stored image, in pixels
    "bbox_width": "float32", "bbox_height": "float32",  # of --thres bbox, in the frame; NaN: there is none
    "leaked": "int64", "viewpoint_variation": "int64", "scale_variation": "int64",  # -1: not given
    "truncation": "int64", "occlusion": "int64",  # -1: not given
    "layer_sel": "str",  # the pair's selection of each layer, separated by spaces
    "point": "int64",
    "source_x": "float32", "source_y": "float32", "target_x": "float32", "target_y": "float32",
    "predicted_x": "float32", "predicted_y": "float32",
}  # fmt: skip
PAIR_COLUMNS = list(COLUMNS)[: list(COLUMNS).index("point")]
DIFFICULTY = {  # SPair-71k's labels of a pair: the names of 0, 1, ...
    "viewpoint_variation": ("easy", "medium", "hard"),
    "scale_variation": ("easy", "medium", "hard"),
    "truncation": ("none", "source", "target", "both"),
    "occlusion": ("none", "source", "target", "both"),
}

Figure = dict[str, Any]
Measure = tuple[Figure, pd.Series]  # a definition; its values by pair or by key-point, indexed by pair


def keypoint_errors(
    predicted: torch.Tensor, target: torch.Tensor, n_pts: torch.Tensor, pckthres: torch.Tensor, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which key-points are predicted within alpha * pckthres (`<=`), and how far off each is.

    Both sides of the comparison are computed in float64 and rounded to float32, the precision of the
    coordinates: a point exactly on the limit counts, whatever the binary fraction of alpha.

    Args: predicted, target [B, 2, P] in one frame, padded beyond n_pts [B]; pckthres [B] in that frame.
    Returns: correct [B, P] bool; distance [B, P] float32, infinite for padding and without prediction (NaN).
    """
    distance = (predicted.double() - target.double()).square().sum(1).sqrt().float()
    present = torch.arange(distance.shape[1], device=distance.device) < n_pts[:, None]
    distance = distance.where(present & ~distance.isnan(), torch.inf)
    return distance <= (pckthres.double() * alpha).float()[:, None], distance


def tabulate(
    batch: dict[str, Any],
    predicted: torch.Tensor | Sequence[torch.Tensor],
    benchmark: Benchmark,
    layer_sel: torch.Tensor | None = None,
) -> pd.DataFrame:
    """The rows of one batch, for `merge`.

    Args: batch: B collated samples of the benchmark; predicted: for each pair [2, >= n_pts] in the img_side
    frame (NaN: no prediction); layer_sel [B, K]: what each pair selected, for the layer-selection picture.
    """
    source, target = _array(batch["src_kps"]), _array(batch["trg_kps"])
    n_source = n_target = _array(batch["n_pts"])
    if benchmark.name == "caltech":  # two outlines that do not correspond: the target's length is its own
        annotated = (target != -1).any(1)
        n_target = np.where(annotated.any(1), target.shape[2] - annotated[:, ::-1].argmax(1), 0)
    n_rows = np.maximum(n_source, n_target)
    pair = np.repeat(np.arange(len(n_rows)), np.maximum(n_rows, 1))  # position in the batch of every row
    point = np.concatenate([np.arange(n) if n else [-1] for n in n_rows])

    found = np.full_like(source, np.nan)
    for i, n in enumerate(n_source):
        found[i, :, :n] = _array(predicted[i])[:, :n]

    box = np.full((len(n_rows), 2), np.nan)
    if "trg_bbox" in batch:
        corners = _array(batch["trg_bbox"])
        box = corners[:, 2:] - corners[:, :2]
    elif "bbox" in benchmark.thresholds:  # PF-WILLOW's published "box" is that of the list with its padding
        box = target.max(2) - target.min(2)

    size = _array(batch["trg_size"])
    selection: Any = [[]] * len(n_rows) if layer_sel is None else _array(layer_sel)
    pairs = {
        "benchmark": benchmark.name, "split": benchmark.split, "img_side": benchmark.img_side,
        "auto_thres": benchmark.auto_thres, "pair": _array(batch["index"]), "source": batch["src_key"],
        "target": batch["trg_key"], "category": batch["category"], "n_pts": n_source,
        "target_width": size[:, 0], "target_height": size[:, 1],
        "bbox_width": box[:, 0], "bbox_height": box[:, 1],
        **{name: _array(batch[name]) if name in batch else -1 for name in ("leaked", *DIFFICULTY)},
        "layer_sel": [" ".join(f"{value:.9g}" for value in row) for row in selection],
    }  # fmt: skip
    table = pd.DataFrame(pairs).iloc[pair].reset_index(drop=True)
    table["point"] = point
    ends = {"source": (source, n_source), "target": (target, n_target), "predicted": (found, n_source)}
    for name, (xy, n) in ends.items():
        present = (point >= 0) & (point < n[pair])
        table[f"{name}_x"], table[f"{name}_y"] = np.where(present, xy[pair, :, point].T, np.nan)
    return table


def merge(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One table in the order of the pairs, each pair once: the same for any batches and processes."""
    tables = list(tables)
    if not tables:
        raise UserError("there is nothing to score: not one pair was evaluated")
    table = pd.concat(tables).sort_values(["pair", "point"], kind="stable")
    return table.drop_duplicates(["pair", "point"]).reset_index(drop=True).astype(COLUMNS)


def score(table: pd.DataFrame, alphas: Sequence[float], thres: str = "auto") -> dict[str, Any]:
    """Every figure of a merged table, each with its definition.

    Returns: what the figures are about; 'totals', 'without_leaked' (PF-PASCAL), 'categories' and 'difficulty'
    (SPair-71k), each ending in a list of figures: the definition that `measure` gives, with value (None:
    undefined), n_pairs and n_points; 'layer_selection', the selection rate of each layer.
    Args and errors: as for `measure`.
    """
    pairs = table.drop_duplicates("pair").set_index("pair")
    about = pairs.iloc[0]
    n_pts = pairs.n_pts.to_numpy()
    measures = [
        (what, values.to_numpy(), pairs.index.get_indexer(values.index))
        for what, values in measure(table, alphas, thres)
    ]

    def figures(chosen: pd.Series) -> list[Figure]:
        found = []
        for what, values, pair in measures:
            kept = chosen.to_numpy()[pair] & ~np.isnan(values)
            used = np.unique(pair[kept])
            value = float(values[kept].mean()) if len(used) else None
            found.append({**what, "value": value, "n_pairs": len(used), "n_points": int(n_pts[used].sum())})
        return found

    result: dict[str, Any] = {
        "benchmark": about.benchmark, "split": about.split, "img_side": int(about.img_side),
        "n_pairs": len(pairs), "n_pairs_without_keypoints": int((pairs.n_pts == 0).sum()),
        "totals": figures(pairs.n_pts >= 0),
    }  # fmt: skip
    if (pairs.leaked >= 0).any():
        result["without_leaked"] = [
            figure | {"basis": f"{figure['basis']}, without training pairs", "paper": False}
            for figure in figures(pairs.leaked == 0)
        ]
    categories = {name: pairs.category == name for name in sorted(pairs.category.unique())}
    result["categories"] = {name: figures(chosen) for name, chosen in categories.items()}
    for label, names in DIFFICULTY.items():
        if (pairs[label] >= 0).any():
            grade = pairs[label].map(dict(enumerate(names))).fillna("unknown")
            groups = {name: figures(grade == name) for name in (*names, "unknown") if (grade == name).any()}
            result.setdefault("difficulty", {})[label] = groups
    if (pairs.layer_sel != "").all():
        selected = pd.DataFrame([line.split() for line in pairs.layer_sel], pairs.index).astype("float64")
        result["layer_selection"] = {
            "definition": "mean over pairs of the selection of each hyperpixel layer, first layer first",
            "total": selected.mean().tolist(),
            "categories": {name: selected[chosen].mean().tolist() for name, chosen in categories.items()},
        }
    return result


def measure(table: pd.DataFrame, alphas: Sequence[float], thres: str = "auto") -> list[Measure]:
    """What is averaged: the definition of each figure, and its values by pair or by key-point.

    Args: thres: `auto` (the benchmark's own), `img`, `bbox` or `bbox-kp`. Caltech-101 needs no alpha and no
    threshold: its key-points do not correspond, its outlines are compared.
    Returns: each definition {name, unit, definition, basis (how it is taken, in words), average, frame, paper
    (whether it is the paper's) and, for PCK, alpha and thres} with a series indexed by pair.
    Raises: UserError where the benchmark cannot give the threshold.
    """
    about, table = table.iloc[0], table[table.n_pts > 0].set_index("pair")
    return _outlines(table, about) if about.benchmark == "caltech" else _pck(table, about, alphas, thres)


def _pck(table: pd.DataFrame, about: pd.Series, alphas: Sequence[float], thres: str) -> list[Measure]:
    """PCK for every alpha, in the frame and in original pixels, by pair and by key-point."""
    side, kind = about.img_side, about.auto_thres if thres == "auto" else thres
    target, predicted = (table[[f"{name}_x", f"{name}_y"]].to_numpy() for name in ("target", "predicted"))
    by_pair = table[["target_x", "target_y"]].groupby(level=0)
    rectangles = {  # the threshold in words; the rectangle, in the frame, that it is the larger side of
        "img": ("larger side of the target image", np.full_like(target, side)),
        "bbox": ("larger side of the target box", table[["bbox_width", "bbox_height"]].to_numpy()),
        "bbox-kp": (
            "larger side of the target key-points' extent",
            (by_pair.transform("max") - by_pair.transform("min")).to_numpy(),
        ),
    }
    possible = [name for name, (_, extent) in rectangles.items() if not np.isnan(extent).any()]
    if kind not in possible:
        choice = ", ".join(["auto", *possible])
        raise UserError(f"--thres {thres}: {about.benchmark} does not give it, choose one of {choice}")
    threshold, extent = rectangles[kind]
    if kind == "bbox" and about.benchmark == "pfwillow":
        threshold = "max(x, y) + 1 over the target key-points, as published"
    frames = {  # pixels per pixel of the img_side x img_side frame
        f"{side}x{side} frame": np.ones(target.shape),
        "original pixels": table[["target_width", "target_height"]].to_numpy() / side,
    }

    measures: list[Measure] = []
    for alpha, (frame, scale) in product(alphas, frames.items()):
        there, found = (torch.from_numpy(xy * scale)[:, :, None] for xy in (target, predicted))
        limit = torch.from_numpy((extent * scale).max(1))
        correct, _ = keypoint_errors(found, there, torch.ones(len(limit)), limit, alpha)
        percent = pd.Series(correct[:, 0].numpy() * 100.0, table.index)
        for average, values in (("pairs", percent.groupby(level=0).mean()), ("key-points", percent)):
            share = "mean over pairs of the share of" if average == "pairs" else "share of all"
            what = {
                "name": f"PCK@{alpha:g}", "unit": "%", "alpha": alpha, "thres": kind,
                "definition": f"{share} key-points predicted within {alpha:g} x threshold (<=)",
                "basis": f"threshold {kind} = {threshold}, {frame}", "average": average, "frame": frame,
                "paper": average == "pairs" and frame == "240x240 frame" and kind == about.auto_thres
                and about.benchmark != "synthetic",
            }  # fmt: skip
            measures.append((what, values))
    return measures


def _outlines(table: pd.DataFrame, about: pd.Series) -> list[Measure]:
    """Caltech-101: how the transferred outline agrees with the target's own, both filled, by pair."""
    side = about.img_side

    def filled(outline: pd.DataFrame) -> np.ndarray:
        x, y = outline.dropna().to_numpy(np.float64).T  # a point without prediction is no corner
        mask = np.zeros((side, side), dtype=bool)
        if len(x):
            mask[polygon(y, x, mask.shape)] = True
        return mask

    accuracy, overlap = {}, {}
    for pair, rows in table.groupby(level=0):
        found = filled(rows[["predicted_x", "predicted_y"]])
        # The published program takes as many points as have x > 0: one at x = 0 drops the last.
        annotated = filled(rows[["target_x", "target_y"]][: (rows.target_x > 0).sum()])
        accuracy[pair] = (found == annotated).mean()
        union = (found | annotated).sum()
        overlap[pair] = (found & annotated).sum() / union if union else np.nan

    measures = []
    for name, definition, values in (
        ("LT-ACC", "mean over pairs of the share of pixels with equal labels", accuracy),
        ("IoU", "mean over pairs of intersection over union", overlap),
    ):
        frame = f"{side}x{side} frame"
        basis = f"filled outlines, transferred and annotated, {frame}"
        what = {"name": name, "unit": "", "definition": definition, "basis": basis, "average": "pairs"}
        measures.append(
            (what | {"frame": frame, "paper": bool(side == 240)}, pd.Series(values, dtype="float64"))
        )
    return measures


def _array(values: Any) -> np.ndarray:
    """A NumPy array of a tensor on any device."""
    return torch.as_tensor(values).detach().cpu().numpy()
