"""A run's report: one HTML file that holds its pictures, needs no network and no script, and opens anywhere.

A report is a title and sections of HTML, which the functions below make. They escape what comes from data:
names, options, captions.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from dhpf.common.files import replace_file
from dhpf.report import pictures

DPI = 160  # of embedded pictures: sharp on most screens, and a report of 101 categories stays below 3 MB
# The policy makes the browser itself refuse whatever is not in the file.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ margin: 0 auto; max-width: 80rem; padding: 1rem; overflow-wrap: anywhere;
  font: 1rem/1.45 system-ui, sans-serif; color: #222; background: #fff; }}
h1 {{ font-size: 1.6rem; }} h2 {{ margin-top: 2.2rem; font-size: 1.25rem; border-bottom: 1px solid #ccc; }}
.scroll {{ overflow-x: auto; }}
.side {{ display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.tiles p {{ margin: 0; flex: 1 1 12rem; padding: .7rem 1rem; background: #eef4f9; }}
.tiles b {{ display: block; font-size: 2rem; line-height: 1.2; }}
figure {{ margin: 1rem 0; }} img {{ display: block; max-width: 100%; height: auto; }}
figcaption, small {{ font-size: .875rem; color: #555; }}
table {{ border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; }}
th, td {{ padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }} td.number {{ white-space: nowrap; }}
@media (max-width: 40rem) {{  /* a phone: long text goes below the rest of its row */
  th, td {{ padding: .3rem .15rem; font-size: .85rem; }}
  .stacked tr {{ display: flex; flex-wrap: wrap; border-bottom: 1px solid #ddd; }}
  .stacked * {{ flex: 1 1 0; border: 0; }} .stacked .long {{ flex-basis: 100%; color: #555; }}
}}
dl {{ display: grid; gap: .2rem 1.2rem; grid-template-columns: fit-content(45%) minmax(0, 1fr);
  font-size: .9rem; }}
dt {{ color: #555; }} dd {{ margin: 0; }} summary {{ cursor: pointer; }}
</style>
</head>
<body>
<h1>{title}</h1>
{content}
</body>
</html>
"""


def write_report(path: Path, title: str, sections: Iterable[str]) -> None:
    """Writes a report as a whole. Raises: UserError where it cannot be written."""
    page = PAGE.format(title=escape(title), content="\n".join(sections))
    replace_file(path, page.encode())


def evaluation(
    figures: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]] = (),
    pairs: Mapping[str, Sequence[tuple[str, Figure]]] | None = None,
) -> str:
    """What was measured: totals with definitions, categories, PCK against alpha, difficulty, layers, pairs.

    Args:
        figures: as `common.evaluation.score` returns them; curve: its 'totals' for many alphas, if not those.
        pairs: captions and pictures of pairs, by group (best, median, worst).
    """
    totals, categories = figures["totals"], figures["categories"]
    # Groups and pictures show means over pairs in the frame; PCK at the alpha nearest the usual one.
    alpha = min(
        (f["alpha"] for f in totals if "alpha" in f), key=lambda alpha: abs(alpha - 0.1), default=None
    )
    shown = {"average": "pairs", "frame": totals[0]["frame"], "alpha": alpha}
    main = [i for i, f in enumerate(totals) if all(f.get(key) == shown[key] for key in shown)]
    counts = ["Pairs", "Key-points"]

    def by_group(labels: list[str], groups: Iterable[tuple[list[str], Sequence[Mapping[str, Any]]]]) -> str:
        rows = [
            [*names, *(_value(group[i]) for i in main), *_counts(group[main[0]])] for names, group in groups
        ]
        return table([*labels, *(totals[i]["name"] for i in main), *counts], rows)

    charts = ""
    for i in main:
        name, unit = totals[i]["name"], totals[i]["unit"]
        values = {category: group[i]["value"] for category, group in categories.items()}
        bars = pictures.category_bars(values, f"{name} {unit and f'({unit})'}", 100 if unit else 1)
        charts += picture(bars, f"{name} of each category, mean over pairs, the best first", "Bar chart")
    curves = _curve(curve or totals)
    tiles, rows = "", []
    for i, f in (*enumerate(totals), *enumerate(figures.get("without_leaked", ()))):
        if i in main:
            note = escape(f"mean over pairs, {f['basis']}")
            tiles += f"<p>{escape(f['name'])} <b>{_value(f)}</b><small>{note}</small></p>"
        definition = f"{f['definition']}; {f['basis']}{' (the paper’s definition)' if f['paper'] else ''}"
        rows.append([f["name"], _value(f), *_counts(f), definition])
    without = figures["n_pairs_without_keypoints"]
    note = f", of which {without} without key-points are in no figure" if without else ""
    about = f"{figures['benchmark']}, split {figures['split']}: {figures['n_pairs']} pairs{note}."
    parts = [
        f'{paragraph(about)}\n<div class="tiles">{tiles}</div>',
        "<h2>Totals</h2>\n" + table(["Figure", "Value", *counts, "Definition"], rows),
        f'<h2>By category{" and by α" * bool(curves)}</h2>\n<div class="side">{charts}{curves}</div>',
        "<details><summary>Categories as a table</summary>",
        by_group(["Category"], (([name], group) for name, group in categories.items())) + "</details>",
    ]
    if "difficulty" in figures:
        labels = [
            (label.removesuffix("_variation"), groups) for label, groups in figures["difficulty"].items()
        ]
        grades = (([label, grade], group) for label, groups in labels for grade, group in groups.items())
        parts.append("<h2>Difficulty</h2>\n" + by_group(["Label", "Grade"], grades))
    if "layer_selection" in figures:
        selection = figures["layer_selection"]
        drawn = pictures.layer_selection(selection["categories"] | {"all pairs": selection["total"]})
        parts.append("<h2>Selected layers</h2>\n" + picture(drawn, selection["definition"], "Heat map"))
    for name, drawings in (pairs or {}).items():
        side = "".join(picture(drawn, caption, "Matches", "jpg") for caption, drawn in drawings)
        parts.append(f'<h2>Pairs: {escape(name)}</h2>\n<div class="side">{side}</div>')
    return "\n".join(parts)


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def training(history: pd.DataFrame, selection: Any = None) -> str:
    """Curves over the epochs; arguments as for `pictures.training_curves`."""
    drawn = pictures.training_curves(history, selection)
    return "<h2>Training</h2>\n" + picture(drawn, "Loss, PCK and selected layers over the epochs", "Curves")


def facts(heading: str, values: Mapping[str, Any]) -> str:
    """Names with values: timing, options, versions."""
    items = [f"<dt>{escape(name)}</dt><dd>{escape(_text(value))}</dd>" for name, value in values.items()]
    return f"<h2>{escape(heading)}</h2>\n<dl>{''.join(items)}</dl>"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table that scrolls in its own box where it is wider than the page; numbers to the right."""
    texts = [list(map(_text, row)) for row in rows]
    kinds = list(map(_kind, zip(*texts, strict=True)))

    def line(tag: str, cells: Sequence[str]) -> str:
        row = (
            f'<{tag} class="{kind}">{escape(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr>{''.join(row)}</tr>\n"

    body = line("th", header) + "".join(line("td", row) for row in texts)
    stacked = "stacked" if "long" in kinds else ""
    return f'<div class="scroll" tabindex="0"><table class="{stacked}">\n{body}</table></div>'


def picture(drawn: Figure, caption: str, what: str, form: str = "png") -> str:
    """A figure, embedded, with its caption; `what` begins its description; 'jpg' keeps photographs small."""
    content = pictures.render(drawn, form, DPI)
    image = Image.open(io.BytesIO(content))
    width, height = (side * 96 // DPI for side in image.size)
    least = f"min-width: {width}px" if width > 480 else ""  # what a phone would shrink beyond reading scrolls
    source = f"data:{image.get_format_mimetype()};base64,{base64.b64encode(content).decode()}"
    size = f'width="{width}" height="{height}" style="{least}"'
    return (
        f'<figure><div class="scroll"><img src="{source}" {size} alt="{escape(what)}: {escape(caption)}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def _curve(figures: Sequence[Mapping[str, Any]]) -> str:
    """PCK against alpha, where there are several."""
    table = pd.DataFrame([f for f in figures if "alpha" in f])
    if table.empty or table.alpha.nunique() < 2:
        return ""
    groups = table.sort_values("alpha", kind="stable").groupby(["average", "frame"], sort=False)
    curves = {f"mean over {name}, {frame}": (rows.alpha, rows.value) for (name, frame), rows in groups}
    return picture(pictures.pck_curve(curves), "PCK against α, the share of the threshold", "Curves")


def _value(figure: Mapping[str, Any]) -> str:
    """The value of a figure with its unit."""
    if figure["value"] is None:
        return "undefined"
    return f"{figure['value']:.2f} %" if figure["unit"] == "%" else f"{figure['value']:.4f}"


def _counts(figure: Mapping[str, Any]) -> tuple[int, int]:
    return figure["n_pairs"], figure["n_points"]


def _kind(column: Sequence[str]) -> str:
    """The class of a table's column."""
    if max(map(len, column)) > 60:
        return "long"
    return "number" if all(text[:1].isdigit() or text == "undefined" for text in column) else "text"


def _text(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
