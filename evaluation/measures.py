"""What people report beside PCK (docs/measures.md): metrics, entered in `evaluation.MEASURES`.

Each is left out of where what it needs is unknown: it never counts as not there. They count `<=`, as our PCK does.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps

import numpy as np
import pandas as pd

from dhpf.data.benchmark import Benchmark
from dhpf.data.image_annotation import Points, parse_points
from dhpf.evaluation.metrics import Hits, Measure, Metric, all_hits, threshold_extents
from dhpf.evaluation.predictions import NAME

DEGREES = 45  # of a step of `azimuth_difference`
read_points = lru_cache(maxsize=1024)(parse_points)


def metric_of_hits(measures_of: Callable[[Hits, type[Benchmark]], list[Measure]]) -> Metric:
    """A metric from what is measured at one alpha in one frame."""

    @wraps(measures_of)
    def metric(
        table: pd.DataFrame, benchmark: type[Benchmark], alphas: Sequence[float], thres: str
    ) -> list[Measure]:
        every = all_hits(table, benchmark, alphas, thres)
        return [measure for hits in every for measure in measures_of(hits, benchmark)]

    return metric


@metric_of_hits
def pck_dagger(hits: Hits, benchmark: type[Benchmark]) -> list[Measure]:
    """PCK† of Jamais Vu: a prediction that is nearer to another key-point of the pair is not correct."""
    predicted, target = hits.points("predicted"), hits.points("target")
    n, point = hits.rows.n_pts.to_numpy(), hits.rows.point.to_numpy()
    first, nearest = np.arange(len(n)) - point, np.ones(len(n), dtype=bool)
    distance = np.linalg.norm(predicted - target, axis=1)
    for step in range(1, int(n.max(initial=1))):  # against the pair's other points, one after another
        other = target[first + (point + step) % n]
        nearest &= ~(np.linalg.norm(predicted - other, axis=1) < distance)
    text = f"key-points {hits.words} and not nearer to another target point of those that both images have"
    return hits.measures("PCK†", text, hits.correct & nearest)


@metric_of_hits
def geometry_aware(hits: Hits, benchmark: type[Benchmark]) -> list[Measure]:
    """PCK of GeoAware-SC's subset: key-points of a group that looks alike, of which the target shows two or more."""
    chosen = np.zeros(len(hits.rows), dtype=bool)
    for k, (name, visible, category) in enumerate(_visible(hits.rows)):
        groups = benchmark.point_groups(category)
        chosen[k] = groups is not None and len(groups.alike.get(name, frozenset()) & visible.keys()) >= 2
    text = (
        f"key-points {hits.words}, of those that look like others (left and right, front and back) and of whose group "
        "the target shows two or more"
    )
    return hits.measures("geometry-aware PCK", text, hits.correct, ("pairs", "key-points"), chosen)


@metric_of_hits
def left_right(hits: Hits, benchmark: type[Benchmark]) -> list[Measure]:
    """GECO's: of the key-points whose mirrored key-point is visible in the target, how many are taken for it."""
    mirrored = np.full((len(hits.rows), 2), np.nan)
    for k, (name, visible, category) in enumerate(_visible(hits.rows)):
        if groups := benchmark.point_groups(category):
            mirrored[k] = visible.get(groups.mirrored.get(name, ""), (np.nan, np.nan))
    correct, other = hits.correct, hits.within(mirrored * hits.scale)
    kinds = {
        "correct": ("of their place", correct),
        "confused": ("of their mirror image, not of their place", other & ~correct),
        "ambiguous": ("of both their place and their mirror image", other & correct),
    }
    return [
        measure
        for kind, (where, which) in kinds.items()
        for measure in hits.measures(
            f"left-right {kind}",
            f"key-points {hits.words} {where}, of those whose mirror image the target shows",
            which,
            ("key-points",),
            ~np.isnan(mirrored[:, 0]),
        )
    ]


@metric_of_hits
def by_azimuth(hits: Hits, benchmark: type[Benchmark]) -> list[Measure]:
    """PCK of the pairs of each difference of azimuth, as GeoAware-SC has it."""
    apart = hits.rows.get("azimuth_difference", pd.Series(-1, hits.rows.index)).to_numpy()
    text = f"key-points {hits.words}, of pairs whose azimuths differ so"
    return [
        measure
        for step in sorted({*apart[apart >= 0].tolist()})
        for measure in hits.measures(
            f"PCK of {DEGREES * step}° azimuth difference",
            text,
            hits.correct,
            ("pairs", "key-points"),
            apart == step,
        )
    ]


def kap(
    table: pd.DataFrame, benchmark: type[Benchmark], alphas: Sequence[float], thres: str
) -> list[Measure]:
    """Key-point average precision of SphericalMaps: does a method know that a key-point is not there?

    A category's average precision is the mean over its positives of the precision at their scores.
    """
    kind, threshold, _ = threshold_extents(table, benchmark, thres)
    pairs = table.drop_duplicates("pair").set_index("pair")
    frame = f"{table.img_side.iloc[0]}x{table.img_side.iloc[0]} frame"
    measures: list[Measure] = []
    for alpha in alphas if "kap" in pairs else ():
        scores = {pair: json.loads(text or "{}").get(f"{kind}@{alpha:g}") for pair, text in pairs.kap.items()}
        rows = pd.DataFrame(
            [(pair, *score) for pair, of_pair in scores.items() if of_pair for score in of_pair],
            columns=["pair", "positive", "score"],
        ).set_index("pair")
        if rows.empty or not rows.positive.any():
            continue
        by_category = [
            precisions(of) for _, of in rows.groupby(pairs.category.reindex(rows.index).to_numpy())
        ]
        definition = {
            "name": f"KAP@{alpha:g}", "unit": "%", "alpha": alpha, "thres": kind,
            "definition": "mean over categories of the average precision of the largest score near a target key-point "
            f"(< {alpha:g} x threshold) against the largest elsewhere, or anywhere if the target does not show it",
            "basis": "match scores of each key-point that the source shows, from 0 to 1 in each pair, threshold "
            f"{kind} = {threshold}, {frame}",
            "average": "categories", "frame": frame,
        }  # fmt: skip
        measures.append((definition, pd.concat(by_category)))
    return measures


def precisions(rows: pd.DataFrame) -> pd.Series:
    """For each positive the precision in % of all that score as much or more, indexed by pair."""
    scores, positive = rows.score.to_numpy(), rows.positive.to_numpy(bool)
    own = scores[positive]
    found, count = (len(among) - np.searchsorted(np.sort(among), own) for among in (own, scores))
    return pd.Series(100.0 * found / count, rows.index[positive])


def _visible(rows: pd.DataFrame) -> list[tuple[str, Points, str]]:
    """For each key-point its name, all visible points of its target in the frame (none: unknown), and its category."""
    texts = rows.target_points if "target_points" in rows else [""] * len(rows)
    return [
        (name, read_points(text), c) for name, text, c in zip(rows[NAME], texts, rows.category, strict=True)
    ]
