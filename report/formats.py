"""Tables as text, Markdown, LaTeX, CSV or a page; what a cell holds never leaves it."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from dhpf.report.page import Section, rendered, text_of

FORMATS = ("text", "markdown", "latex", "csv", "html")
SUFFIXES = dict(zip(FORMATS, ("txt", "md", "tex", "csv", "html"), strict=True))
MOST = 60  # characters of a cell
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "−": "$-$", "α": r"$\alpha$", "μ": r"$\mu$", "×": r"$\times$", "…": r"\ldots{}",
    **{c: f"\\{c}" for c in "#$%&_"},
}  # fmt: skip


def cell(value: Any, most: int = MOST) -> str:
    """A value as a cell of a line of text: what cannot be printed, and what turns the direction of writing, is escaped;
    what is long is cut in the middle."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text_of(value))
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"


def markdown_cell(text: str) -> str:
    return re.sub(r"([\\`*\[\]<>|#~$&]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def latex_cell(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in text)


def as_text(title: str, sections: Sequence[Section]) -> str:
    lines = [title]
    for part in sections:
        lines += ["", *(cell(text, 10**4) for text in (part.heading, part.text) if text)]
        rows = [list(map(cell, row)) for row in (part.header, *part.rows)] if part.rows else []
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            aligned = zip(row, widths, part.kinds, strict=True)
            lines.append(
                "  ".join(f"{c:>{w}}" if kind == "number" else f"{c:{w}}" for c, w, kind in aligned).rstrip()
            )
    return "\n".join(lines) + "\n"


def as_markdown(title: str, sections: Sequence[Section]) -> str:
    def line(row: Sequence[Any]) -> str:
        return f"| {' | '.join(markdown_cell(cell(value)) for value in row)} |"

    lines = [f"## {markdown_cell(cell(title, 200))}", ""]
    for part in sections:
        lines += [f"### {markdown_cell(cell(part.heading, 200))}", ""] if part.heading else []
        lines += [markdown_cell(cell(part.text, 10**4)), ""] if part.text else []
        if part.rows:
            rules = ["---:" if kind == "number" else "---" for kind in part.kinds]
            lines += [line(part.header), f"| {' | '.join(rules)} |", *map(line, part.rows), ""]
    return "\n".join(lines)


def as_latex(title: str, sections: Sequence[Section]) -> str:
    """Tables of LaTeX's own commands."""

    def line(row: Sequence[Any]) -> str:
        return " & ".join(latex_cell(cell(value)) for value in row) + r" \\"

    lines = [f"% {cell(title, 200)}"]
    for part in sections:
        lines += [f"% {cell(part.text, 10**4)}"] if part.text else []
        if part.rows:
            columns = "".join("r" if kind == "number" else "l" for kind in part.kinds)
            lines += [r"\begin{table}", rf"\caption{{{latex_cell(cell(part.heading or title, 200))}}}"]
            lines += [rf"\begin{{tabular}}{{{columns}}}", r"\hline", line(part.header), r"\hline"]
            lines += [*map(line, part.rows), r"\hline", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def as_csv(title: str, sections: Sequence[Section]) -> str:
    """Every table with its heading in the first column."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    for part in sections:
        for row in (part.header, *part.rows) if part.rows else ():
            rows.writerow([part.heading, *map(text_of, row)])
    return out.getvalue()


def as_html(title: str, sections: Sequence[Section]) -> str:
    return rendered("page.html", title=title, sections=sections).decode()


WRITERS: dict[str, Callable[[str, Sequence[Section]], str]] = dict(
    zip(FORMATS, (as_text, as_markdown, as_latex, as_csv, as_html), strict=True)
)
