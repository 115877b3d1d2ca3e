"""Pictures for reports and papers: plain functions of arrays and tables, each returning a matplotlib Figure.

Key-points are arrays [2, n] of x, y in pixels of the image that they are passed with; the centre of its first
pixel is (0, 0). Nothing is told by colour alone: markers and dashes repeat it, the colours are those of
Okabe and Ito, and heat maps change steadily in lightness.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from dhpf.data.images import shrunk

Reals = NDArray[np.float64]
WIDTH_INCHES = 4.5  # so narrow that 9 pt text is still read where a phone shrinks the picture to its width
MAX_PHOTOGRAPH_SIDE = 1000  # pixels of what is drawn of a photograph
MAX_DRAWN_MATCHES = 200  # more hide the photographs
# Width by height of two images side by side: wider ones are put one below the other, if that is not too high.
WIDEST, NARROWEST = 4.5, 0.3
GAP = 0.03  # between two images, in units of their common height or width
CONFIDENCE_COLOURS = mpl.colormaps["plasma"]
# Characters that set the direction of text.
DIRECTIONS = dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))
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
    count = _draw_matches(axes, src_image, trg_image, src_kps, predicted, trg_kps, correct, confidence)
    axes.set_title(textwrap.fill(title, 72))
    if confidence is not None and np.isfinite(confidence).any():
        look: Any = {"location": "bottom", "fraction": 0.05, "aspect": 40, "pad": 0.02}
        figure.colorbar(ScalarMappable(cmap=CONFIDENCE_COLOURS), ax=axes, label="confidence", **look)
    figure.set_size_inches(WIDTH_INCHES, WIDTH_INCHES * _aspect(axes) + (0.5 if confidence is None else 0.9))
    _legend(figure, {kind: kind if correct is None else f"{kind} ({n})" for kind, n in count.items()})
    return figure


@mpl.rc_context(STYLE)
def contact_sheet(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Several pairs in one picture, a row for each named group (best, median, worst).

    Args: groups: for each pair of a group the arguments of `matches`, by keyword.
    """
    columns = max(map(len, groups.values()))
    figure = Figure(layout="constrained")
    grid = figure.subplots(len(groups), columns, squeeze=False)
    kinds: dict[str, int] = {}
    heights = []
    for row, (name, pairs) in zip(grid, groups.items(), strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, pair in zip(row, pairs, strict=False):
            arguments = {"title": "", **pair}
            axes.set_title(textwrap.fill(arguments.pop("title"), 58), fontsize=8)
            kinds |= _draw_matches(axes, **arguments)
        row[0].text(-0.02, 0.5, name, transform=row[0].transAxes, rotation=90, ha="right", va="center")
        heights.append(0.25 + 3.2 * max((_aspect(axes) for axes in row[: len(pairs)]), default=0.2))
    figure.set_size_inches(0.3 + 3.2 * columns, 0.3 + sum(heights))
    grid[0, 0].get_gridspec().set_height_ratios(heights)
    _legend(figure, {kind: kind for kind in kinds})
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


def _draw_matches(
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


def _aspect(axes: Axes) -> float:
    """Height by width of what is drawn."""
    return float(np.ptp(axes.get_ylim()) / np.ptp(axes.get_xlim()))


def _legend(figure: Figure, labels: Mapping[str, str]) -> None:
    """Explains the kinds of matches under the picture, where there is more to tell than one kind of line."""
    look = {"markersize": 6, "path_effects": [withStroke(linewidth=2.2, foreground=RIM)]}
    handles = [
        Line2D([], [], label=label, **{"color": "white"} | KINDS[k] | look) for k, label in labels.items()
    ]
    if set(labels) - {"match"}:
        spacing: Any = {"handlelength": 1.8, "handletextpad": 0.5, "columnspacing": 1}
        figure.legend(handles=handles, loc="outside lower center", ncols=4, **spacing)


def extremes(values: pd.Series, n: int = 3) -> dict[str, list[Any]]:
    """Which pairs to show: the labels of the n best, median and worst values, none twice.

    Ties are shuffled, always in the same way: in order they would all be of the first category.
    """
    shuffled = values.dropna().sample(frac=1, random_state=0)
    order = shuffled.sort_values(ascending=False, kind="stable").index.tolist()
    n = min(n, max(len(order) // 3, 1))
    best, worst = order[:n], order[: max(n, len(order) - n) - 1 : -1]
    rest = order[n : len(order) - n]
    first = max(len(rest) - n, 0) // 2
    return {"best": best, "median": rest[first : first + n], "worst": worst}


@mpl.rc_context(STYLE)
def layer_selection(rates: Mapping[str, Sequence[float]]) -> Figure:
    """The heat map of how often each category's pairs select each layer, as in the paper.

    Args: rates: K shares in 0..1 for each category, first layer first.
    """
    table, names = np.array([*rates.values()], dtype=np.float64), list(map(short, rates))
    rows, K = table.shape
    width = 0.4 + 0.075 * max(map(len, names)) + max(0.165 * K, 2.5)
    figure = Figure(figsize=(width, 1.1 + 0.165 * rows), layout="constrained")
    axes = figure.subplots()
    _heat_map(axes, table, 0.165 * rows)
    axes.set_xticks(range(K), map(str, range(K)), fontsize=7)
    axes.set_yticks(range(rows), names)
    axes.set_xlabel("hyperpixel layer")
    return figure


def short(name: object, longest: int = 30) -> str:
    """A name, cut where it would leave no room for the picture, without what would turn the text behind it around."""
    text = str(name).translate(DIRECTIONS)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _heat_map(axes: Axes, rates: np.ndarray, height: float, left: float = -0.5) -> None:
    """Shares in 0..1 [rows, columns] as cells, `height` inches high, under a colour bar; NaN is grey."""
    look: Any = {"cmap": mpl.colormaps["YlGnBu"].with_extremes(bad="#aaaaaa"), "vmin": 0, "vmax": 1}
    extent = (left, left + rates.shape[1], rates.shape[0] - 0.5, -0.5)
    image = axes.imshow(rates, aspect="auto", interpolation="nearest", extent=extent, **look)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    place: Any = {
        "location": "top",
        "fraction": 0.1 / height,
        "pad": 0.04 / height,
        "shrink": 0.8,
        "aspect": 30,
    }
    figure = cast(Figure, axes.figure)
    figure.colorbar(image, ax=axes, label="share of pairs that select the layer", **place)


@mpl.rc_context(STYLE)
def pck_curve(curves: Mapping[str, Mapping[float, float]]) -> Figure:
    """PCK in percent by alpha, a curve for each label."""
    figure = Figure(figsize=(WIDTH_INCHES, 2.8 + 0.18 * len(curves)), layout="constrained")
    axes = figure.subplots()
    for label, pck in curves.items():
        axes.plot([*pck.keys()], [*pck.values()], label=label)
    axes.set(xlabel="α (share of the threshold)", ylabel="PCK (%)", ylim=(0, 102), xlim=(0, None))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid()
    figure.legend(loc="outside lower center")
    return figure


@mpl.rc_context(STYLE)
def training_curves(history: pd.DataFrame) -> Figure:
    """Losses and PCK over the epochs, and how often each layer was selected.

    Args:
        history: a row an epoch: epoch; for trn and val loss, pck (in percent) and, where they are known, the parts of
        the loss, matching_loss and selection_loss; for each of K layers selection/00, ...: its mean selection, in 0..1.
    """
    rates = history.filter(regex="^selection/").to_numpy(dtype=np.float64).T
    names = [n for n in ("loss", "matching_loss", "selection_loss", "pck") if f"trn_{n}" in history]
    heights = [1.5] * len(names) + [0.6 + 0.1 * len(rates)]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), layout="constrained")
    *panels, heat_map = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    for axes, name in zip(panels, names, strict=True):
        for split, label in {"trn": "training", "val": "validation"}.items():
            axes.plot(history.epoch, history[f"{split}_{name}"], label=label)
        axes.set_ylabel("PCK (%)" if name == "pck" else name.replace("_", " "))
        axes.grid()
    if history.val_pck.notna().any():
        best = history.loc[history.val_pck.idxmax()]
        star: Any = {"marker": "*", "markersize": 10, "color": "black", "linestyle": "", "zorder": 3}
        label = f"best model: epoch {best.epoch:g}, {best.val_pck:.1f} %"
        panels[-1].plot(best.epoch, best.val_pck, label=label, **star)
    for axes in panels:
        axes.legend()
    left, right = history.epoch.min() - 0.5, history.epoch.max() + 0.5
    _heat_map(heat_map, rates, heights[-1], left)
    heat_map.set(xlabel="epoch", xlim=(left, right), ylabel="hyperpixel layer")
    heat_map.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    heat_map.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@mpl.rc_context(STYLE)
def render(figure: Figure, form: str, dpi: int = 300) -> bytes:
    """The content of a figure's file: 'png', 'pdf' or 'jpg' (photographs)."""
    content = io.BytesIO()
    figure.savefig(content, format=form, dpi=dpi, bbox_inches="tight", pad_inches=0.05, **FORMATS[form])
    return content.getvalue()
