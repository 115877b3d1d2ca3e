"""Pictures for reports and papers: plain functions of arrays and tables, each returning a matplotlib Figure.

Key-points are arrays [2, n] of x, y in pixels of the image that they are passed with; the centre of its first
pixel is (0, 0). Nothing is told by colour alone: markers and dashes repeat it, the colours are those of
Okabe and Ito, and heat maps change steadily in lightness.
"""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image

from dhpf.data.images import shrunk

WIDTH = 4.5  # inches: so narrow that 9 pt text is still read where a phone shrinks the picture to its width
MAX_SHOWN = 1000  # pixels of a photograph's longer side
MOST = 200  # matches that are drawn: more hide the photographs
# Width by height of two images side by side: wider ones are put one below the other, if that is not too high.
WIDEST, NARROWEST = 4.5, 0.3
SURE = mpl.colormaps["plasma"]
DIRECTIONS = re.compile(
    "[\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)  # characters that set the direction of text
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
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
    "png": {"metadata": {"Software": None}},
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

    Wide ones are put one below the other, brought to one width.  Of very many matches an even choice is drawn.

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
    if (number := src_kps.shape[1]) > MOST and trg_kps is None:
        drawn = np.arange(MOST) * number // MOST
        src_kps, predicted = src_kps[:, drawn], predicted[:, drawn]
        correct, confidence = (None if x is None else np.asarray(x)[drawn] for x in (correct, confidence))
        title += f"; {MOST} of {number} drawn"
    count = _draw_matches(axes, src_image, trg_image, src_kps, predicted, trg_kps, correct, confidence)
    axes.set_title(textwrap.fill(title, 72))
    if confidence is not None and np.isfinite(confidence).any():
        look: Any = {"location": "bottom", "fraction": 0.05, "aspect": 40, "pad": 0.02}
        figure.colorbar(ScalarMappable(cmap=SURE), ax=axes, label="confidence", **look)
    figure.set_size_inches(WIDTH, WIDTH * _aspect(axes) + (0.5 if confidence is None else 0.9))
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
            arguments = {"trg_kps": None, "correct": None, "title": ""} | dict(pair)
            axes.set_title(textwrap.fill(arguments.pop("title"), 58), fontsize=8)
            kinds |= _draw_matches(axes, **arguments)
        row[0].text(-0.02, 0.5, name, transform=row[0].transAxes, rotation=90, ha="right", va="center")
        heights.append(0.25 + 3.2 * max((_aspect(axes) for axes in row[: len(pairs)]), default=0.2))
    figure.set_size_inches(0.3 + 3.2 * columns, 0.3 + sum(heights))
    grid[0, 0].get_gridspec().set_height_ratios(heights)
    _legend(figure, {kind: kind for kind in kinds})
    return figure


def _draw_matches(
    axes: Axes,
    src_image: Any,
    trg_image: Any,
    src_kps: Any,
    predicted: Any,
    trg_kps: Any,
    correct: Any,
    confidence: Any = None,
) -> dict[str, int]:
    """What `matches` shows, and how many there are of each kind. The axes' unit is the common height or width."""
    truth = [[], []] if trg_kps is None else trg_kps
    start, end, ring = (
        np.asarray(xy, dtype=np.float64).reshape(2, -1).T for xy in (src_kps, predicted, truth)
    )
    shown = [
        x if isinstance(x, Image.Image) else Image.fromarray(np.asarray(x)) for x in (src_image, trg_image)
    ]
    sizes = np.array([image.size for image in shown])
    aspects = sizes[:, 0] / sizes[:, 1]
    # 0: side by side, 1: one below the other
    along = int(aspects.sum() > WIDEST and 1 / (1 / aspects).sum() > NARROWEST)
    scales = 1 / sizes[:, 1 - along]
    corner = np.zeros(2)
    corner[along] = sizes[0, along] * scales[0] + 0.03
    right, bottom = np.maximum(sizes[0] * scales[0], corner + sizes[1] * scales[1])
    for image, place, extent in zip(shown, (np.zeros(2), corner), sizes * scales[:, None], strict=True):
        _show(axes, image, place, extent)
    start = (start + 0.5) * scales[0]
    end, ring = ((xy + 0.5) * scales[1] + corner for xy in (end, ring))
    axes.set(xlim=(-0.02, right + 0.02), ylim=(bottom + 0.02, -0.02), aspect="equal")
    axes.set_axis_off()

    kinds = ["match"] * len(start) if correct is None else np.where(correct, "correct", "incorrect").tolist()
    kinds = [kind if np.isfinite(xy).all() else "no prediction" for kind, xy in zip(kinds, end, strict=True)]
    widths = np.ones(len(start))
    if confidence is None:
        rank = start[:, 0].argsort(kind="stable").argsort(kind="stable")  # neighbours get similar colours
        hues = SURE(0.3 + 0.7 * rank / max(len(rank) - 1, 1))
    else:
        sure = np.asarray(confidence, dtype=np.float64)
        hues, widths = np.where(np.isfinite(sure)[:, None], SURE(sure), 1.0), 0.5 + np.nan_to_num(sure)
    size = 1.0 if len(start) <= 40 else 0.6
    rim = [withStroke(linewidth=2.7 * size, foreground="#000000b0")]  # seen on light photographs too
    hollow = {"markersize": 7 * size, "markeredgewidth": 1.3 * size, "path_effects": rim}
    line: Any = {"markersize": 5 * size, "linewidth": 1.4 * size, "path_effects": rim}
    if correct is not None:
        for xy in np.stack([end, ring], 2):
            axes.plot(
                *xy, color="white", linestyle=":", marker="", linewidth=size, path_effects=rim, gid="error"
            )
    axes.plot(*ring.T, gid="ground truth", **KINDS["ground truth"] | hollow)
    for kind, hue, width, *ends in zip(kinds, hues, widths, start, end, strict=True):
        if kind == "no prediction":
            axes.plot(*ends[0], gid=kind, **KINDS[kind] | hollow)
        else:
            look = {"color": hue} | KINDS[kind] | line | {"linewidth": line["linewidth"] * width}
            axes.plot(*np.transpose(ends), gid=kind, **look)
            axes.plot(*np.transpose(ends), zorder=3, **look | {"linestyle": ""})  # no line hides a point
    count = {kind: kinds.count(kind) for kind in KINDS} | {"ground truth": len(ring)}
    return {kind: n for kind, n in count.items() if n}


def _show(axes: Axes, image: Image.Image, corner: np.ndarray, extent: np.ndarray) -> None:
    """Draws an image of this extent in units of the axes, from its upper left corner."""
    (left, top), (right, bottom) = corner, corner + extent
    axes.imshow(shrunk(image, MAX_SHOWN).convert("RGB"), extent=(left, right, bottom, top))


def _aspect(axes: Axes) -> float:
    """Height by width of what is drawn."""
    return float(np.ptp(axes.get_ylim()) / np.ptp(axes.get_xlim()))


def _legend(figure: Figure, labels: Mapping[str, str]) -> None:
    """Explains the kinds of matches under the picture, where there is more to tell than one kind of line."""
    look = {"markersize": 6, "path_effects": [withStroke(linewidth=2.2, foreground="#000000b0")]}
    handles = [
        Line2D([], [], label=labels[kind], **{"color": "white"} | KINDS[kind] | look) for kind in labels
    ]
    if set(labels) - {"match"}:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=4,
            handlelength=1.8,
            handletextpad=0.5,
            columnspacing=1,
        )


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
    text = DIRECTIONS.sub("", str(name))
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
    figure = Figure(figsize=(WIDTH, 2.8 + 0.18 * len(curves)), layout="constrained")
    axes = figure.subplots()
    for label, pck in curves.items():
        axes.plot([*pck.keys()], [*pck.values()], label=label)
    axes.set(xlabel="α (share of the threshold)", ylabel="PCK (%)", ylim=(0, 102), xlim=(0, None))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid()
    figure.legend(loc="outside lower center")
    return figure


@mpl.rc_context(STYLE)
def category_bars(values: Mapping[str, float | None], label: str, full: float) -> Figure:
    """Categories as bars with their values, the best at the top; None or NaN is told as undefined.

    Args: label: what is measured; full: its highest possible value, the length of the axis.
    """
    series = pd.Series(values, dtype="float64").sort_values(
        ascending=False, na_position="last", kind="stable"
    )
    figure = Figure(figsize=(WIDTH, 0.6 + 0.19 * len(series)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(series)), series.fillna(0), color=COLOURS[0], height=0.72)
    texts = [f"{value:.{1 if full == 100 else 3}f}" for value in series]
    axes.bar_label(bars, ["undefined" if text == "nan" else text for text in texts], padding=3, fontsize=8)
    axes.set_yticks(range(len(series)), map(short, series.index))
    axes.set_xticks(np.linspace(0, full, 6))
    axes.set(xlim=(0, full * 1.1), ylim=(len(series) - 0.4, -0.6), xlabel=label)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    return figure


@mpl.rc_context(STYLE)
def training_curves(history: pd.DataFrame) -> Figure:
    """Loss and PCK over the epochs, and how often each layer was selected.

    Args:
        history: a row an epoch: epoch, trn_loss, val_loss, trn_pck, val_pck (PCK in percent), and for each of K
        layers selection/00, ...: its mean selection in training, in 0..1.
    """
    rates = history.filter(regex="^selection/").to_numpy(dtype=np.float64).T
    heights = [1.9, 1.9, 0.6 + 0.1 * len(rates)]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    panels = figure.subplots(3, sharex=True, height_ratios=heights)
    if history.val_pck.notna().any():
        best = history.loc[history.val_pck.idxmax()]
        star: Any = {"marker": "*", "markersize": 10, "color": "black", "linestyle": "", "zorder": 3}
        label = f"best model: epoch {best.epoch:g}, {best.val_pck:.1f} %"
        panels[1].plot(best.epoch, best.val_pck, label=label, **star)
    for axes, name, label in zip(panels, ("loss", "pck"), ("loss", "PCK (%)"), strict=False):
        axes.set_prop_cycle(STYLE["axes.prop_cycle"])
        for split, word in {"trn": "training", "val": "validation"}.items():
            axes.plot(history.epoch, history[f"{split}_{name}"], label=word)
        axes.set_ylabel(label)
        axes.legend()
        axes.grid()
    left, right = history.epoch.min() - 0.5, history.epoch.max() + 0.5
    _heat_map(panels[2], rates, heights[2], left)
    panels[2].set_ylabel("hyperpixel layer")
    panels[2].yaxis.set_major_locator(MaxNLocator(integer=True))
    panels[2].set(xlabel="epoch", xlim=(left, right))
    panels[2].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


@mpl.rc_context(STYLE)
def loss_parts(history: pd.DataFrame) -> Figure:
    """The two parts of the loss over the epochs, of training and validation.

    Args: history: a row an epoch: epoch, and for trn and val matching_loss and selection_loss.
    """
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    panels = figure.subplots(2, sharex=True)
    for axes, part in zip(panels, ("matching", "selection"), strict=True):
        for split, word in {"trn": "training", "val": "validation"}.items():
            axes.plot(history.epoch, history[f"{split}_{part}_loss"], label=word)
        axes.set_ylabel(f"{part} loss")
        axes.legend()
        axes.grid()
    panels[1].set_xlabel("epoch")
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


@mpl.rc_context(STYLE)
def render(figure: Figure, form: str, dpi: int = 300) -> bytes:
    """The content of a figure's file: 'png', 'pdf' or 'jpg' (photographs)."""
    content = io.BytesIO()
    figure.savefig(content, format=form, dpi=dpi, bbox_inches="tight", pad_inches=0.05, **FORMATS[form])
    return content.getvalue()
