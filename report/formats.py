"""Tables as text, Markdown, LaTeX, CSV or a page; what a cell holds never leaves it."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from dhpf.report.page import Section, as_text, render_page

SUFFIXES = {"text": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "html": "html"}
MAX_CELL, MAX_TITLE, MAX_TEXT = 60, 200, 10_000  # characters
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "[": "{[}", "*": "{*}",  # behind the end of a row they would be its options
    "−": "$-$", "α": r"$\alpha$", "μ": r"$\mu$", "×": r"$\times$", "…": r"\ldots{}",
    **{character: f"\\{character}" for character in "#$%&_"},
})  # fmt: skip


def printable(value: Any, max_length: int = MAX_CELL) -> str:
    """A value on one line of text: what cannot be printed, and what turns the direction of writing, is escaped; what is
    long is cut in the middle."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in as_text(value))
    half = max_length // 2
    return text if len(text) <= max_length else f"{text[:half]}…{text[1 - half :]}"


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*\[\]<>|#~$&]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def escape_latex(text: str) -> str:
    return text.translate(LATEX)


def table_lines(part: Section, form: str, escape: Callable[[str], str] = str) -> list[str]:
    """The table of a section by tabulate, in one of its forms."""
    rows = [[escape(printable(value)) for value in row] for row in (part.header, *part.rows)]
    align = ["right" if kind == "number" else "left" for kind in part.kinds]
    frame = pd.DataFrame(rows[1:])
    table = frame.to_markdown(
        tablefmt=form, index=False, headers=rows[0], colalign=align, disable_numparse=True
    )
    return [line.rstrip() for line in table.splitlines()]


def to_text(title: str, sections: Sequence[Section]) -> str:
    lines = [title]
    for part in sections:
        lines += ["", *(printable(text, MAX_TEXT) for text in (part.heading, part.text) if text)]
        lines += table_lines(part, "plain") if part.rows else []
    return "\n".join(lines) + "\n"


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    lines = [f"## {escape_markdown(printable(title, MAX_TITLE))}", ""]
    for part in sections:
        lines += [f"### {escape_markdown(printable(part.heading, MAX_TITLE))}", ""] if part.heading else []
        lines += [escape_markdown(printable(part.text, MAX_TEXT)), ""] if part.text else []
        lines += [*table_lines(part, "pipe", escape_markdown), ""] if part.rows else []
    return "\n".join(lines)


def to_latex(title: str, sections: Sequence[Section]) -> str:
    """Tables of LaTeX's own commands."""
    lines = [f"% {printable(title, MAX_TITLE)}"]
    for part in sections:
        lines += [f"% {printable(part.text, MAX_TEXT)}"] if part.text else []
        if part.rows:
            caption = escape_latex(printable(part.heading or title, MAX_TITLE))
            table = table_lines(part, "latex_raw", escape_latex)
            lines += [r"\begin{table}", rf"\caption{{{caption}}}", *table, r"\end{table}"]
    return "\n".join(lines) + "\n"


def to_csv(title: str, sections: Sequence[Section]) -> str:
    """One table: of all numbers, where sections have them, else of what the sections show."""
    tables = [part.data for part in sections if part.data is not None]
    tables = tables or [pd.DataFrame(part.rows, columns=list(part.header)) for part in sections if part.rows]
    return pd.concat(tables).to_csv(index=False, lineterminator="\n")


def to_html(title: str, sections: Sequence[Section]) -> str:
    return render_page("page.html", title=title, sections=sections).decode()


WRITERS: dict[str, Callable[[str, Sequence[Section]], str]] = {
    "text": to_text, "markdown": to_markdown, "latex": to_latex, "csv": to_csv, "html": to_html,
}  # fmt: skip
