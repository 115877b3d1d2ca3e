"""Make tests/model/golden_small.npz, golden numbers that need no data: `python -m tests.helpers.extract_golden DIR`.

The golden values need weights of 12 MB and photographs. So this keeps, beside the published numbers of one pair,
what they follow from: the transformed maps of the layers that the pair selects, computed in float64 and rounded to
15 significant bits; and for the gates of the first four layers their weights and the layers' average vectors.
"""

import runpy
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dhpf.model.backbone import ResNet50
from dhpf.model.dhpf import DHPF

PAIR, ROWS, GATES = 1, 2, 4


def rounded(values: torch.Tensor) -> NDArray[np.float32]:
    bits = values.numpy().astype(np.float32).view(np.uint32)
    return ((bits + 256) >> 9 << 9).view(np.float32)


def main(folder: Path) -> None:
    torch.set_default_dtype(torch.float64)
    pairs, single, strong, weak = (
        np.load(folder / "resnet50" / f"{name}.npz")
        for name in ("pairs", "eval_batch_resnet50", "train_strong_resnet50", "train_weak_resnet50")
    )
    state = runpy.run_path(str(folder / "backbone.py"))["backbone_state_dict"]("resnet50")
    model = DHPF(ResNet50(state)).eval()
    learner = torch.load(folder / "resnet50" / "learner_resnet50.pt", weights_only=True)
    model.learner.load_state_dict(learner)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    kept = {"layers": np.flatnonzero(single["layer_sel"][PAIR])}
    with torch.no_grad():
        for way in ("src", "trg"):
            images = (pairs[f"{way}_image"] / 255 - mean) / std
            maps = list(model.backbone(torch.from_numpy(images).permute(0, 3, 1, 2)))
            transformed = list(model.learner.transformed([m[PAIR : PAIR + 1] for m in maps]))
            for k in kept["layers"]:
                kept[f"{way}_map.{k}"] = rounded(transformed[k][1][0])
            for k in range(GATES):
                kept[f"{way}_pooled.{k}"] = maps[k].mean((2, 3)).numpy().astype(np.float32)
    kept |= {name: single[name][PAIR, :ROWS] for name in ("appearance_rows", "corr_rows")}
    kept |= {name: single[name][PAIR] for name in ("row_sum", "row_max", "col_max", "mutual_argmax")}
    kept |= {
        "rows": single["rows"][:ROWS],
        "predicted_kps": single["predicted_kps"][PAIR],
        "pck": single["pck"][PAIR],
    }
    kept |= {name: pairs[name][PAIR] for name in ("src_kps", "trg_kps", "n_pts")}
    kept["category_id"] = pairs["category_id"]
    kept |= {
        name: learner[name].numpy()
        for name in learner
        if name.startswith(tuple(f"gumbel_ffns.{k}." for k in range(GATES)))
    }
    kept["evaluation_selection"] = single["layer_sel"][:, :GATES]
    for name, run in (("strong", strong), ("weak", weak)):
        kept[f"{name}_noise"] = run["noise_0"][:GATES]
        kept[f"{name}_selection"] = run["layer_sel_0"][:, :GATES]
    np.savez_compressed(Path(__file__).parents[1] / "model" / "golden_small.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
