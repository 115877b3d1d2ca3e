"""Tables in every format; hostile names stay in their cells."""

import re
from typing import Any

import numpy as np
import pytest

from dhpf.evaluation.comparison import compare
from dhpf.report import comparison
from dhpf.report.formats import WRITERS
from dhpf.report.page import Section
from tests.helpers.pages import HOSTILE, Page
from tests.helpers.tables import random_pairs, table_of

NAMES = [
    HOSTILE, "| x | y |\n| --- |", r"\input{/etc/passwd} & % $x$ ~^_#", "\u202egpj.tac\u202c \u05d0\u05d1", "../" * 5,
    "x" * 4000, "=1+1", '","', "[best]", "*", "007",
]  # fmt: skip


@pytest.fixture(scope="module")
def hostile() -> Any:
    """A comparison of two runs with hostile names, of images and categories with such."""
    pairs = random_pairs(5, 24)
    for i, (sample, _) in enumerate(pairs):
        name = NAMES[i % len(NAMES)]
        sample |= {"category": name, "src_key": name + str(i), "trg_key": name}
    table = table_of(pairs)
    noise = np.random.default_rng(1).normal(0, 1, len(table)).astype("float32")
    other = table.assign(predicted_x=table.predicted_x + noise)
    return compare({NAMES[0]: table, NAMES[1]: other, "[best]": table}, (0.1,), "auto")


def test_hostile_names_stay_in_their_cells(hostile: Any) -> None:
    sections = comparison.sections(hostile)
    tables = [part for part in sections if part.rows]
    written = {form: write(comparison.title(hostile), sections) for form, write in WRITERS.items()}
    for form in ("text", "markdown", "latex"):
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", written[form]), form
        assert "x" * 100 not in written[form]
    rows = [line for line in written["markdown"].splitlines() if line.startswith("|")]
    columns = [len(part.header) for part in tables for _ in range(len(part.rows) + 2)]
    assert [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows] == columns
    assert not re.search(r"(?<!\\)<", written["markdown"])
    # Every backslash, brace and special of a cell is LaTeX's own way to write it; none begins a row's options.
    assert r"\input" not in written["latex"]
    bodies = re.findall(r"\\hline\n(.*?)\\end\{tabular\}", written["latex"], re.S)
    for part, body in zip(tables, bodies, strict=True):
        for row in body.replace("\\hline\n", "").splitlines():
            assert row.endswith(r" \\")
            assert not row.lstrip().startswith(("[", "*"))
            assert len(re.findall(r"(?<!\\)&", row)) == len(part.header) - 1
            assert not re.search(r"(?<!\\)[%#_]", row)
            assert "$" not in re.sub(r"\$(-|\\[a-z]+)\$|\\\$", "", row)
    page = Page(written["html"])
    assert any(HOSTILE in text for text in page.text("td"))


def test_a_table_in_every_format() -> None:
    sections = [Section("Cats & dogs", ["Run", "PCK"], [["a_b", 1.5], ["007", 10]], text="Of <two>.")]
    written = {form: write("Title", sections) for form, write in WRITERS.items()}
    assert written["text"] == "Title\n\nCats & dogs\nOf <two>.\nRun      PCK\na_b      1.5\n007       10\n"
    table = "| Run   |   PCK |\n|:------|------:|\n| a_b   |   1.5 |\n| 007   |    10 |\n"
    assert written["markdown"].split("\n\n")[3] == table
    assert "\\caption{Cats \\& dogs}\n\\begin{tabular}{lr}\n\\hline\n Run   &   PCK \\\\" in written["latex"]
    assert written["csv"] == "Run,PCK\na_b,1.5\n007,10.0\n"
    assert Page(written["html"]).text("td") == ["a_b", "1.5", "007", "10"]
