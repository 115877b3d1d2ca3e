"""The scores that key-point average precision is computed from (KAP of SphericalMaps; docs/measures.md)."""

from collections.abc import Sequence

import torch

from dhpf.data.image_annotation import Points
from dhpf.evaluation.metrics import to_float64
from dhpf.model.dhpf import Matches
from dhpf.model.grid import cell_centres, nearest_cells


@torch.no_grad()
def keypoint_scores(
    matches: Matches, source: Points, target: Points, threshold: float, alphas: Sequence[float]
) -> dict[float, list[tuple[int, float]]]:
    """By alpha the scores of every key-point that the source shows, from 0 to 1 in the pair, with 1: positive, or 0.

    Where the target shows it, too: the largest within alpha of the threshold of its place (<), or in the nearest cell,
    is a positive, the largest elsewhere a negative. Where it does not: the largest of all is a negative.

    Args: matches: of one pair; source, target: all visible points in the frame; threshold: pixels of the frame.
    """
    places = torch.tensor(list(source.values()), dtype=torch.float32).T[None]
    cells = nearest_cells(places, matches.side).to(matches.scores.column_max.device)
    rows = to_float64(matches.scores.rows(cells)[0]).cpu()
    rows = (rows - rows.min()) / (rows.max() - rows.min()).clamp(min=1e-300)
    centres = cell_centres(rows, matches.side).T
    scores: dict[float, list[tuple[int, float]]] = {alpha: [] for alpha in alphas}
    for name, row in zip(source, rows, strict=True):
        for alpha, listed in scores.items():
            if name not in target:
                listed.append((0, float(row.max())))
                continue
            distance = (centres - torch.tensor(target[name]).double()).norm(dim=1)
            near = distance < alpha * threshold
            near[distance.argmin()] = True
            listed.append((1, float(row[near].max())))
            if not near.all():
                listed.append((0, float(row[~near].max())))
    return scores
