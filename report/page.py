"""Pages: HTML files that hold their pictures, need no network, and open anywhere.

A report is a title and sections of plain data; `page.html` makes all HTML of them, and escapes every text.
"""

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from dhpf.common.files import replace_file
from dhpf.report import pictures

REPORT = "report.html"  # of a run folder
SHOWN = 25  # rows of a long table at a time, as in page.js
DPI = 160  # sharp on most screens; more costs seconds and megabytes, and shows no more of 240 pixels


@dataclass(frozen=True)
class Section:
    """Part of a page: a table, pictures, whatever is given; without any of it the heading is left out too."""

    heading: str = ""
    header: Sequence[str] = ()  # of the table
    rows: Sequence[Sequence[Any]] = ()
    folded: str = ""  # a name under which the table is hidden until it is asked for
    listed: bool = False  # a long table: the reader searches, sorts and turns its pages
    command: str = ""  # of a long table, beside each row: what to type, with the row's first cell behind it
    links: Mapping[Any, str] = field(default_factory=dict)  # pages to see instead, by the rows' first cells
    text: str = ""  # a paragraph
    tiles: Sequence[tuple[str, str, str]] = ()  # name, value and note of what matters most
    pictures: Sequence[Mapping[str, Any]] = ()  # as `picture` makes them; several stand side by side
    facts: Mapping[str, Any] | None = None  # names with values

    @property
    def kinds(self) -> list[str]:
        """What each column of the table holds: numbers stand to the right, long text below on a phone."""
        return [_kind(list(map(_cell, column))) for column in zip(*self.rows, strict=True)]

    @property
    def shown(self) -> Sequence[Sequence[Any]]:
        """The rows that are seen without a script."""
        return self.rows[:SHOWN] if self.listed else self.rows


def write_report(path: Path, title: str, sections: Iterable[Section]) -> None:
    """Writes a report as a whole. Raises: UserError where it cannot be written."""
    sections = list(sections)
    script = "page.js" if any(section.listed for section in sections) else ""
    replace_file(path, rendered("page.html", script, title=title, sections=sections))


def rendered(template: str, script: str = "", **values: Any) -> bytes:
    """The page that a template of this folder makes of values, all text escaped; `script`, a file beside it, is the one
    that its policy lets run."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"text": text_of, "cell": _cell, "digest": _digest}
    code = (folder / script).read_text(encoding="utf-8") if script else ""
    return environment.get_template(template).render(script=code, **values).encode()


def picture(drawn: Figure, what: str, caption: str, form: str = "png", link: str = "") -> dict[str, Any]:
    """A figure, embedded. `what` begins its description; 'jpg' keeps photographs small; `link`: a page of it."""
    content = pictures.render(drawn, form, DPI)
    image = Image.open(io.BytesIO(content))
    width, height = (side * 96 // DPI for side in image.size)
    source = f"data:{image.get_format_mimetype()};base64,{base64.b64encode(content).decode()}"
    return {
        "source": source,
        "width": width,
        "height": height,
        "what": what,
        "caption": caption,
        "link": link,
    }


def rounded_rows(table: pd.DataFrame) -> list[list[Any]]:
    """The rows of a table, numbers rounded; None stands for what is not defined."""
    return table.round(4).astype(object).where(table.notna(), None).to_numpy().tolist()


def _kind(column: Sequence[str]) -> str:
    if max(map(len, column)) > 60:
        return "long"
    return "number" if all(text[:1].isdigit() or text == "undefined" for text in column) else "text"


def _digest(script: str) -> str:
    """The hash by which a page's policy knows its script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _cell(value: Any) -> str:
    """A value of a table."""
    return "undefined" if value is None else text_of(value)


def text_of(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(text_of, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
