"""The explorer of a pair: one HTML file that predicts for any point of either image what the program would.

A prediction is a mean over the few cells that cover a point (docs/method.md, section 6), so the best target cells of
all source cells are enough to give it: `explorer.js` does as `model.transfer.transfer_keypoints`.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from dhpf.data.images import shrunk
from dhpf.matching.matcher import Encoded, Matcher
from dhpf.model.dhpf import Matches
from dhpf.model.grid import STRIDE
from dhpf.model.transfer import confident_targets, mutual_nn_filter
from dhpf.report.page import rendered
from dhpf.report.pictures import MAX_SHOWN

LIKELY = 6  # target cells of each source cell that are told: the best, and the next to show doubt
FULL = 2**16 - 1  # a share or confidence of 1


def explorer(
    matcher: Matcher, pair: tuple[Encoded, Encoded], names: Sequence[str], title: str = "", words: str = ""
) -> bytes:
    """The page of a source and a target, in both directions.

    Args: names: of source and target, as a table of pairs names them; title: their last parts if not given; words: what
        predicts, if not what the matcher says.
    """
    short = [name.rpartition("/")[2] for name in names]
    ways = [packed(matcher.model.compare(a.features, b.features)) for a, b in (pair, pair[::-1])]
    about = {
        "frame": pair[0].side,
        "likely": LIKELY,
        "full": FULL,
        "bytes": cell_type(pair[0].side // STRIDE).itemsize,
        "blank": any(of.blank for of in pair),
        "names": list(names),
        "sizes": [of.image.size for of in pair],
        "ways": [base64.b64encode(way).decode() for way in ways],
    }
    images = [
        {"name": name, "width": of.image.width, "height": of.image.height, "source": embedded(of.image)}
        for name, of in zip(short, pair, strict=True)
    ]
    title = title or " – ".join(short)
    return rendered(
        "explorer.html", "explorer.js", title=title, images=images, about=about, model=words or str(matcher)
    )


def cell_type(side: int) -> np.dtype:
    """What holds the number of a cell of a side×side grid, and a share of `FULL`."""
    return np.dtype("<u2" if side * side <= FULL + 1 else "<u4")


@torch.no_grad()
def packed(matches: Matches) -> bytes:
    """Of one pair, for each source cell: its `LIKELY` target cells, the best first, their shares of the row's filtered
    scores, and its confidence; shares and confidence in 1/`FULL`."""
    maxima = matches.scores.column_max
    N = maxima.shape[1]
    rows = []
    for cells in torch.arange(N, device=maxima.device)[None].split(max(1, 2**22 // N), dim=1):
        scores = matches.scores.rows(cells)
        best, confidence = confident_targets(scores, maxima)
        filtered = mutual_nn_filter(scores, maxima)
        total = filtered.sum(2, keepdim=True).clamp(min=1e-30)
        # The first of equals is the best one, which a search for the largest might not put first.
        likely = filtered.scatter(2, best[..., None], torch.inf).topk(LIKELY, 2).indices
        shares = torch.cat([filtered.gather(2, likely) / total, confidence[..., None]], 2)
        rows.append(torch.cat([likely, (shares.double() * FULL).round().long()], 2)[0].cpu().numpy())
    return np.concatenate(rows).astype(cell_type(matches.side)).tobytes()


def embedded(image: Image.Image) -> str:
    """A picture as the address of itself, large enough for a screen."""
    content = io.BytesIO()
    shrunk(image, MAX_SHOWN).save(content, "jpeg", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
