"""The explorer of a pair: one HTML file that predicts for any point of either image what the program would.

A prediction is a mean over the few grid cells that cover a point (docs/method.md, section 6), so the best target cells
of all source cells are enough to give it: `explorer.js` does as `model.transfer.transfer_keypoints`.
"""

import base64
from collections.abc import Sequence

import numpy as np
import torch

from dhpf.matching.drawing import MAX_PHOTOGRAPH_SIDE
from dhpf.matching.found import Encoded
from dhpf.matching.matcher import Matcher
from dhpf.model.dhpf import Matches
from dhpf.model.grid import STRIDE
from dhpf.model.transfer import mutual_nn_filter, peaks
from dhpf.report.page import jpeg, render_page

LIKELY = 6  # target cells of each source cell that the page holds: the best, and the next to show doubt
UNIT = 2**16 - 1  # what the page writes for a share or confidence of 1
CHUNK = 2**19  # scores at once: they stay in a processor's cache


def explorer(
    matcher: Matcher, pair: tuple[Encoded, Encoded], names: Sequence[str], title: str = "", model: str = ""
) -> bytes:
    """The page of a source and a target, in both directions.

    Args:
        names: of source and target, as a table of pairs names them.
        title: the last parts of the names if not given; model: what predicts, if not what the matcher says.
    """
    short_names = [name.rpartition("/")[2] for name in names]
    directions = [pack(matcher.model.compare(a.features, b.features)) for a, b in (pair, pair[::-1])]
    data = {
        "frame": pair[0].side,
        "likely": LIKELY,
        "unit": UNIT,
        "bytes": cell_type(pair[0].side // STRIDE).itemsize,
        "blank": any(encoded.blank for encoded in pair),
        "names": list(names),
        "sizes": [encoded.image.size for encoded in pair],
        "directions": [base64.b64encode(direction).decode() for direction in directions],
    }
    images = [
        {
            "name": name,
            "width": image.width,
            "height": image.height,
            "source": jpeg(image, MAX_PHOTOGRAPH_SIDE),
        }
        for name, image in zip(short_names, (encoded.image for encoded in pair), strict=True)
    ]
    title = title or " – ".join(short_names)
    values = {"title": title, "images": images, "data": data, "model": model or str(matcher)}
    return render_page("explorer.html", "copy.js", "explorer.js", **values)


def cell_type(side: int) -> np.dtype:
    """What holds the number of a cell of a side×side grid, and a share in 1/`UNIT`."""
    return np.dtype("<u2" if side * side <= UNIT + 1 else "<u4")


@torch.no_grad()
def pack(matches: Matches) -> bytes:
    """Of one pair, for each source cell: its `LIKELY` target cells, the best first, their shares of the row's filtered
    scores, and its confidence; shares and confidence in 1/`UNIT`."""
    column_max = matches.scores.column_max
    N, S = column_max.shape[1], matches.side
    rows = []
    for cells in torch.arange(N, device=column_max.device)[None].split(max(1, CHUNK // N), dim=1):
        filtered = mutual_nn_filter(matches.scores.rows(cells), column_max)
        best, confidence = peaks(filtered)
        total, largest = filtered.sum(2, keepdim=True).clamp(min=1e-30), filtered.gather(2, best[..., None])
        # The first of equals is the best one, which a search for the largest might not put first.
        grid = filtered.scatter_(2, best[..., None], -1).unflatten(2, (S, S))
        few = grid.amax(3).topk(LIKELY - 1, 2).indices  # grid rows that hold the next best
        next_best, k = grid.gather(2, few[..., None].expand(-1, -1, -1, S)).flatten(2).topk(LIKELY - 1, 2)
        likely = torch.cat([best[..., None], few.gather(2, k // S) * S + k % S], 2)
        shares = torch.cat([largest / total, next_best / total, confidence[..., None]], 2)[0].cpu()
        packed = (shares.double() * UNIT).round().long()  # on the CPU: not every device has float64
        rows.append(torch.cat([likely[0].cpu(), packed], 1).numpy())
    return np.concatenate(rows).astype(cell_type(matches.side)).tobytes()
