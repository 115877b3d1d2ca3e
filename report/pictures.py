"""Pictures for reports and papers: plain functions of arrays and tables, each returning a matplotlib Figure.

Heat maps change steadily in lightness; what is drawn over photographs, and the style, are in `matching.drawing`.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dhpf.matching.drawing import STYLE, WIDTH_INCHES, aspect, draw_matches, legend

# Characters that set the direction of text.
DIRECTIONS = dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))


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
            kinds |= draw_matches(axes, **arguments)
        row[0].text(-0.02, 0.5, name, transform=row[0].transAxes, rotation=90, ha="right", va="center")
        heights.append(0.25 + 3.2 * max((aspect(axes) for axes in row[: len(pairs)]), default=0.2))
    figure.set_size_inches(0.3 + 3.2 * columns, 0.3 + sum(heights))
    grid[0, 0].get_gridspec().set_height_ratios(heights)
    legend(figure, {kind: kind for kind in kinds})
    return figure


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
