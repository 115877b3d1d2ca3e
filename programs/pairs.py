"""Matching and drawing one pair of a benchmark."""

from typing import Any

import numpy as np
import torch

from dhpf.common.errors import UserError
from dhpf.evaluation.metrics import keypoint_errors
from dhpf.matching.matcher import Reals
from dhpf.programs.match import MatchOptions
from dhpf.programs.matching import chosen_points, loaded, save
from dhpf.programs.testing import opened
from dhpf.report import pictures

ALPHA = 0.1  # a key-point within this share of the threshold is drawn as correct


def match_pair(options: MatchOptions, number: int) -> None:
    """Match a pair of a benchmark at its key-points, unless other points are asked for; the annotation is drawn, too.

    Raises: UserError: there is no such pair, or it has no points.
    """
    benchmark = opened(options)
    if number >= len(benchmark):
        what = f"{benchmark.list_path} has {len(benchmark)} pairs, 0 to {len(benchmark) - 1}"
        raise UserError(f"--pair {number}: {what}")
    sample = benchmark.annotation(number)
    keys = sample["src_key"], sample["trg_key"]
    source, target = map(benchmark.picture, keys)
    own = options.own_points
    starts, ends = (
        sample[f"{end}_kps"][:, : sample[n]] for end, n in (("src", "n_pts"), ("trg", "n_trg_pts"))
    )
    scales = [np.array(image.size) / benchmark.img_side for image in (source, target)]
    points = chosen_points(options, source.size) if own else _array(starts.T) * scales[0]
    inside = np.logical_and(points >= 0, points <= source.size).all(axis=1)
    if not inside.any():
        raise UserError(f"--pair {number}: it has no key-point in the image, give --points")
    matcher = loaded(options)
    found = matcher.match(source, target, points[inside]).at_least(options.min_confidence)
    name = f"{benchmark.name} {benchmark.split}, pair {number}, {pictures.short(sample['category'])}"
    drawn: dict[str, Any] = {"title": name}
    if not own:
        drawn["trg_kps"] = _array(ends) * scales[1][:, None]
        if not inside.all():
            print(f"{(~inside).sum()} of {len(points)} key-points are outside the image and left out")
    if not own and benchmark.metric == "pck":
        # In the frame and not cut at the image's border, as a test does it.
        moved = found.matches.transfer(starts[None].to(matcher.model.device)).cpu()
        counts, limits = torch.tensor([len(points)]), sample["pckthres"][None]
        correct = keypoint_errors(moved, ends[None], counts, limits, ALPHA)[0][0].numpy()
        drawn = {
            **drawn,
            "correct": correct[inside],
            "title": f"{name}: PCK@{ALPHA} {100 * correct.mean():.1f} %",
        }
    files = benchmark.root / keys[0], benchmark.root / keys[1]
    path = options.output / f"{benchmark.name}-{benchmark.split}-{number}"
    save(options, matcher, path, found, files, **drawn)


def _array(x: torch.Tensor) -> Reals:
    return x.double().numpy()
