"""Pages: HTML files that hold their pictures, need no network, and open anywhere.

A page is a title and sections of plain data; `page.html` makes all HTML of them, and escapes every text.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from dhpf.common.files import replace_file
from dhpf.data.images import shrunk
from dhpf.matching import drawing

REPORT = "report.html"  # of a run folder
PAGE_ROWS = 25  # rows of a long table at a time, as in page.js
DPI = 160  # of pictures: sharp on most screens; more costs seconds and megabytes, and shows no more of 240 pixels
LONG_TEXT = 60  # characters: a phone shows such a cell below the others of its row
FOLDER = Path(__file__).parent  # of templates and scripts


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    source: the picture as the address of itself; width, height: its size in CSS pixels; kind: what it is, such as
    'Bar chart'; link: a page to explore it; marks: what is drawn over it, paths of SVG in its pixels, by their class.
    """

    source: str
    width: int
    height: int
    kind: str
    caption: str
    link: str = ""
    marks: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_png(cls, content: bytes, kind: str, caption: str) -> "Picture":
        """Of a file that `drawing.render` made."""
        width, height = (side * 96 // DPI for side in Image.open(io.BytesIO(content)).size)
        return cls(data_address(content, "png"), width, height, kind, caption)

    @classmethod
    def of_figure(cls, figure: Figure, kind: str, caption: str) -> "Picture":
        return cls.of_png(drawing.render(figure, "png", DPI), kind, caption)


@dataclass(frozen=True)
class Section:
    """Part of a page: a table, pictures, whatever is given; without any of it the heading is left out, too."""

    heading: str = ""
    header: Sequence[str] = ()  # of the table
    rows: Sequence[Sequence[Any]] = ()
    folded: bool = False  # hidden under its heading until it is asked for
    paged: bool = False  # a long table: the reader searches, sorts and turns its pages
    command: str = ""  # of a long table, beside each row: what to type, with the row's first cell behind it
    links: Mapping[Any, str] = field(default_factory=dict)  # pages to see instead, by the rows' first cells
    text: str = ""  # a paragraph
    tiles: Sequence[tuple[str, str, str]] = ()  # name, value and note of what matters most
    pictures: Sequence[Picture] = ()  # several stand side by side
    facts: Mapping[str, Any] = field(default_factory=dict)  # names with values
    data: pd.DataFrame | None = None  # all numbers of a page, which CSV has instead of the tables

    @property
    def kinds(self) -> list[str]:
        """What each column of the table holds: numbers stand to the right, long text below on a phone."""
        return [column_kind(list(map(cell_text, column))) for column in zip(*self.rows, strict=True)]

    @property
    def first_rows(self) -> Sequence[Sequence[Any]]:
        """The rows that are seen without a script."""
        return self.rows[:PAGE_ROWS] if self.paged else self.rows


def write_report(path: Path, title: str, sections: Iterable[Section]) -> None:
    """Writes a page as a whole. Raises: UserError where it cannot be written."""
    sections = list(sections)
    scripts = ("copy.js", "page.js") if any(section.paged for section in sections) else ()
    replace_file(path, render_page("page.html", *scripts, title=title, sections=sections))


def render_page(template: str, *scripts: str, **values: Any) -> bytes:
    """The page that a template makes of values, all text escaped; its policy lets no other script run than those."""
    script = "".join((FOLDER / name).read_text(encoding="utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment().get_template(template).render(script=script, digest=digest, **values).encode()


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"text": as_text, "cell": cell_text}
    return made


def jpeg(image: Image.Image, max_side: int) -> str:
    """A photograph as the address of itself, of no longer side than that."""
    content = io.BytesIO()
    shrunk(image, max_side).save(content, "jpeg", quality=85)
    return data_address(content.getvalue(), "jpeg")


def data_address(content: bytes, form: str) -> str:
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"


def column_kind(texts: Sequence[str]) -> str:
    if max(map(len, texts)) > LONG_TEXT:
        return "long"
    numbers = all(text.lstrip("+-")[:1].isdigit() or text in ("", "undefined") for text in texts)
    return "number" if numbers and any(texts) else "text"


def cell_text(value: Any) -> str:
    """A value of a table."""
    return "undefined" if value is None else as_text(value)


def as_text(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def table_rows(table: pd.DataFrame, decimals: int = 4) -> list[list[Any]]:
    """The rows of a table, numbers rounded; None stands for what is not defined."""
    return table.round(decimals).astype(object).where(table.notna(), None).to_numpy().tolist()


def option_sections(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Section]:
    """The options that are not at their default; those that are, folded."""
    saved, default = (json.loads(json.dumps(dict(values), default=str)) for values in (options, defaults))
    same = {name for name, value in saved.items() if name in default and default[name] == value}
    return [
        Section("Options", facts={name: value for name, value in saved.items() if name not in same}),
        Section(
            "Options at their defaults",
            folded=True,
            facts={name: saved[name] for name in saved if name in same},
        ),
    ]
