"""Pictures of matches: two photographs side by side, each point joined with its prediction.

Key-points are arrays [2, n] of x, y in pixels of the image that they are passed with; the centre of its first
pixel is (0, 0). Nothing is told by colour alone: markers and dashes repeat it, and the colours are those of
Okabe and Ito.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from dhpf.data.images import shrunk
from dhpf.evaluation.metrics import Reals

WIDTH_INCHES = 4.5  # so narrow that 9 pt text is still read where a phone shrinks the picture to its width
MAX_PHOTOGRAPH_SIDE = 1000  # pixels of what is drawn of a photograph
MAX_DRAWN_MATCHES = 200  # more hide the photographs
# Width by height of two images side by side: wider ones are put one below the other, if that is not too high.
WIDEST, NARROWEST = 4.5, 0.3
GAP = 0.03  # between two images, in units of their common height or width
CONFIDENCE_COLOURS = mpl.colormaps["plasma"]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
RIM = "#000000b0"  # around what is drawn over photographs: it is seen on light ones, too
STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "legend.frameon": False,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "grid.color": "#dddddd", "text.parse_math": False, "pdf.fonttype": 42,
    "lines.markersize": 3.5,
    "axes.prop_cycle": cycler(color=COLOURS, marker=[*"osD^vPX"], linestyle=["-", "--", "-.", ":", *"---"]),
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {  # what is drawn over photographs
    "match": {"marker": "o", "linestyle": "-"},
    "correct": {"marker": "o", "linestyle": "-", "color": COLOURS[4]},
    "incorrect": {"marker": "X", "color": COLOURS[5], "linestyle": (0, (3, 1.5))},
    "no prediction": {"marker": "s", "color": "white", "markerfacecolor": "none", "linestyle": ""},
    "ground truth": {"marker": "o", "color": "white", "markerfacecolor": "none", "linestyle": ""},
}
# Of files: without date and version, so that what is drawn alike is always the same sequence of bytes.
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 4}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    "jpg": {"pil_kwargs": {"quality": 85, "subsampling": 0}},
}


@mpl.rc_context(STYLE)
def matches(
    src_image: Any,
    trg_image: Any,
    src_kps: Any,
    predicted: Any,
    trg_kps: Any = None,
    correct: Any = None,
    title: str = "",
    confidence: Any = None,
) -> Figure:
    """Two images side by side, brought to one height, each source point joined with its prediction.

    Wide ones are put one below the other, brought to one width. Of very many matches an even choice is drawn.

    Args:
        src_image, trg_image: PIL images or uint8 arrays [H, W, 3], each of its own size.
        src_kps [2, n] in the source image; predicted [2, n] in the target image, not finite: no prediction,
        which leaves a square at the source point and no line.
        trg_kps [2, m] in the target image: the ground truth, as rings.
        correct [n] bool, for key-points that correspond (m = n): an incorrect match is dashed, with crosses,
        and a dotted line shows how far it is off.
        confidence [n] in 0..1: colours and widens the lines, under a colour bar; NaN: none, white.
    """
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    src_kps, predicted = (np.asarray(xy, dtype=np.float64).reshape(2, -1) for xy in (src_kps, predicted))
    if (number := src_kps.shape[1]) > MAX_DRAWN_MATCHES and trg_kps is None:
        drawn = np.arange(MAX_DRAWN_MATCHES) * number // MAX_DRAWN_MATCHES
        src_kps, predicted = src_kps[:, drawn], predicted[:, drawn]
        correct, confidence = (None if x is None else np.asarray(x)[drawn] for x in (correct, confidence))
        title += f"; {MAX_DRAWN_MATCHES} of {number} drawn"
    count = draw_matches(axes, src_image, trg_image, src_kps, predicted, trg_kps, correct, confidence)
    axes.set_title(textwrap.fill(title, 72))
    if confidence is not None and np.isfinite(confidence).any():
        look: Any = {"location": "bottom", "fraction": 0.05, "aspect": 40, "pad": 0.02}
        figure.colorbar(ScalarMappable(cmap=CONFIDENCE_COLOURS), ax=axes, label="confidence", **look)
    figure.set_size_inches(WIDTH_INCHES, WIDTH_INCHES * aspect(axes) + (0.5 if confidence is None else 0.9))
    legend(figure, {kind: kind if correct is None else f"{kind} ({n})" for kind, n in count.items()})
    return figure


@dataclass(frozen=True)
class PlacedPair:
    """Two images side by side, each of height 1, or, if that is too wide, one below the other, each of width 1.

    corners, extents: of the images [2, 2]; start, end, truth: points [n, 2] in that unit; kinds: of the matches [n].
    """

    corners: Reals
    extents: Reals
    start: Reals
    end: Reals
    truth: Reals
    kinds: NDArray[np.str_]

    @classmethod
    def of(
        cls, images: Sequence[Image.Image], src_kps: Any, predicted: Any, trg_kps: Any, correct: Any
    ) -> "PlacedPair":
        """Arguments as for `matches`."""
        sizes = np.array([image.size for image in images], dtype=np.float64)
        aspects = sizes[:, 0] / sizes[:, 1]
        below = int(aspects.sum() > WIDEST and 1 / (1 / aspects).sum() > NARROWEST)
        extents = sizes / sizes[:, [1 - below]]
        corners = np.zeros((2, 2))
        corners[1, below] = extents[0, below] + GAP
        start, end, truth = (
            (np.asarray(xy, dtype=np.float64).reshape(2, -1).T + 0.5) * extents[k] / sizes[k] + corners[k]
            for k, xy in ((0, src_kps), (1, predicted), (1, [] if trg_kps is None else trg_kps))
        )
        kinds = np.full(len(start), "match") if correct is None else np.where(correct, "correct", "incorrect")
        return cls(
            corners, extents, start, end, truth, np.where(np.isfinite(end).all(1), kinds, "no prediction")
        )


def draw_matches(
    axes: Axes,
    src_image: Any,
    trg_image: Any,
    src_kps: Any,
    predicted: Any,
    trg_kps: Any = None,
    correct: Any = None,
    confidence: Any = None,
) -> dict[str, int]:
    """What `matches` shows, and how many there are of each kind."""
    images = [x if isinstance(x, Image.Image) else Image.fromarray(x) for x in (src_image, trg_image)]
    pair = PlacedPair.of(images, src_kps, predicted, trg_kps, correct)
    for image, (left, top), (width, height) in zip(images, pair.corners, pair.extents, strict=True):
        extent = (left, left + width, top + height, top)
        axes.imshow(shrunk(image, MAX_PHOTOGRAPH_SIDE).convert("RGB"), extent=extent)
    right, bottom = (pair.corners + pair.extents).max(0)
    axes.set(xlim=(-0.02, right + 0.02), ylim=(bottom + 0.02, -0.02), aspect="equal", xticks=[], yticks=[])
    axes.set_axis_off()
    n = len(pair.start)
    if confidence is None:
        rank = (
            pair.start[:, 0].argsort(kind="stable").argsort(kind="stable")
        )  # neighbours get similar colours
        hues, widths = CONFIDENCE_COLOURS(0.3 + 0.7 * rank / max(n - 1, 1)), np.ones(n)
    else:
        known = np.asarray(confidence, dtype=np.float64)
        hues = np.where(np.isfinite(known)[:, None], CONFIDENCE_COLOURS(known), 1.0)
        widths = 0.5 + np.nan_to_num(known)
    size = 1.0 if n <= 40 else 0.6
    rim: Any = {"path_effects": [withStroke(linewidth=2.7 * size, foreground=RIM)]}
    hollow = {"markersize": 7 * size, "markeredgewidth": 1.3 * size, **rim}
    missing = pair.kinds == "no prediction"
    if correct is not None:
        errors = np.stack([pair.end, pair.truth], 1)[~missing]
        axes.add_collection(
            LineCollection(errors, colors="white", linestyles=":", gid="error", **rim), autolim=False
        )
    axes.plot(*pair.truth.T, gid="ground truth", **KINDS["ground truth"] | hollow)
    axes.plot(*pair.start[missing].T, gid="no prediction", **KINDS["no prediction"] | hollow)
    ends: Any = {
        "s": 25 * size**2,
        "edgecolors": RIM,
        "linewidths": 0.7 * size,
        "zorder": 3,
    }  # no line hides them
    for kind in ("match", "correct", "incorrect"):
        chosen, look = pair.kinds == kind, KINDS[kind]
        colours = look.get("color", hues[chosen])
        segments = np.stack([pair.start, pair.end], 1)[chosen]
        lines: Any = {
            "linestyles": [look["linestyle"]],
            "linewidths": 1.4 * size * widths[chosen],
            "gid": kind,
        }
        axes.add_collection(LineCollection(segments, colors=colours, **lines, **rim), autolim=False)
        for k in range(2):
            x, y = segments[:, k].T
            axes.scatter(x, y, c=colours, marker=look["marker"], **ends)
    count = {kind: int((pair.kinds == kind).sum()) for kind in KINDS} | {"ground truth": len(pair.truth)}
    return {kind: number for kind, number in count.items() if number}


def aspect(axes: Axes) -> float:
    """Height by width of what is drawn."""
    return float(np.ptp(axes.get_ylim()) / np.ptp(axes.get_xlim()))


def legend(figure: Figure, labels: Mapping[str, str]) -> None:
    """Explains the kinds of matches under the picture, where there is more to tell than one kind of line."""
    look = {"markersize": 6, "path_effects": [withStroke(linewidth=2.2, foreground=RIM)]}
    handles = [
        Line2D([], [], label=label, **{"color": "white"} | KINDS[k] | look) for k, label in labels.items()
    ]
    if set(labels) - {"match"}:
        spacing: Any = {"handlelength": 1.8, "handletextpad": 0.5, "columnspacing": 1}
        figure.legend(handles=handles, loc="outside lower center", ncols=4, **spacing)


@mpl.rc_context(STYLE)
def render(figure: Figure, form: str, dpi: int = 300) -> bytes:
    """The content of a figure's file: 'png', 'pdf' or 'jpg' (photographs)."""
    content = io.BytesIO()
    figure.savefig(content, format=form, dpi=dpi, bbox_inches="tight", pad_inches=0.05, **FORMATS[form])
    return content.getvalue()
