"""A run's report: one HTML file that holds its pictures, needs no network and no script, and opens anywhere.

A report is a title and sections of plain data; `page.html` makes all HTML of them, and escapes every text.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from dhpf.common.files import replace_file
from dhpf.report import pictures

DPI = 160  # sharp on most screens; more costs seconds and megabytes, and shows no more of 240 pixels


@dataclass(frozen=True)
class Section:
    """Part of a page: a table, pictures, whatever is given; without any of it the heading is left out too."""

    heading: str = ""
    header: Sequence[str] = ()  # of the table
    rows: Sequence[Sequence[Any]] = ()
    folded: str = ""  # a name under which the table is hidden until it is asked for
    text: str = ""  # a paragraph
    tiles: Sequence[tuple[str, str, str]] = ()  # name, value and note of what matters most
    pictures: Sequence[Mapping[str, Any]] = ()  # as `picture` makes them; several stand side by side
    facts: Mapping[str, Any] | None = None  # names with values

    @property
    def kinds(self) -> list[str]:
        """What each column of the table holds: numbers stand to the right, long text below on a phone."""
        return [_kind(list(map(_text, column))) for column in zip(*self.rows, strict=True)]


def write_report(path: Path, title: str, sections: Iterable[Section]) -> None:
    """Writes a report as a whole. Raises: UserError where it cannot be written."""
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["text"] = _text
    page = environment.get_template("page.html").render(title=title, sections=sections)
    replace_file(path, page.encode())


def picture(drawn: Figure, what: str, caption: str, form: str = "png") -> dict[str, Any]:
    """A figure, embedded; `what` begins its description in words; 'jpg' keeps photographs small."""
    content = pictures.render(drawn, form, DPI)
    image = Image.open(io.BytesIO(content))
    width, height = (side * 96 // DPI for side in image.size)
    source = f"data:{image.get_format_mimetype()};base64,{base64.b64encode(content).decode()}"
    return {"source": source, "width": width, "height": height, "what": what, "caption": caption}


def _kind(column: Sequence[str]) -> str:
    if max(map(len, column)) > 60:
        return "long"
    return "number" if all(text[:1].isdigit() or text == "undefined" for text in column) else "text"


def _text(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
