"""Tables in every format; hostile names stay in their cells."""

import re

from dhpf.report.formats import WRITERS
from dhpf.report.page import Section
from tests.helpers.pages import HOSTILE, Page

NAMES = [
    HOSTILE, "| x | y |\n| --- |", r"\input{/etc/passwd} & % $x$ ~^_#", "\u202egpj.tac\u202c \u05d0\u05d1", "../" * 5,
    "x" * 4000, "=1+1", '","', "[best]", "*", "007",
]  # fmt: skip


def test_hostile_names_stay_in_their_cells() -> None:
    section = Section("Runs", ["Run", "PCK"], [[name, 1.5] for name in NAMES])
    written = {form: write(HOSTILE, [section]) for form, write in WRITERS.items()}
    for form in ("text", "markdown", "latex"):
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", written[form]), form
        assert "x" * 100 not in written[form]
    rows = [line for line in written["markdown"].splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3] * (len(NAMES) + 2)
    assert not re.search(r"(?<!\\)<", written["markdown"])
    # Every special character of a cell is LaTeX's own way to write it; none begins a row's options.
    assert r"\input" not in written["latex"]
    cells = re.findall(r"(.*)1\.5 \\\\", written["latex"])
    assert len(cells) == len(NAMES)
    for row in cells:
        assert not row.lstrip().startswith(("[", "*"))
        assert len(re.findall(r"(?<!\\)&", row)) == 1
        assert not re.search(r"(?<!\\)[%#_]", row)
    assert any(HOSTILE in text for text in Page(written["html"]).text("td"))


def test_a_table_in_every_format() -> None:
    sections = [Section("Cats & dogs", ["Run", "PCK"], [["a_b", 1.5], ["007", 10]], text="Of <two>.")]
    written = {form: write("Title", sections) for form, write in WRITERS.items()}
    assert written["text"] == "Title\n\nCats & dogs\nOf <two>.\nRun      PCK\na_b      1.5\n007       10\n"
    table = "| Run   |   PCK |\n|:------|------:|\n| a_b   |   1.5 |\n| 007   |    10 |\n"
    assert written["markdown"].split("\n\n")[3] == table
    assert "\\caption{Cats \\& dogs}\n\\begin{tabular}{lr}\n\\hline\n Run   &   PCK \\\\" in written["latex"]
    assert written["csv"] == "Run,PCK\na_b,1.5\n007,10.0\n"
    assert Page(written["html"]).text("td") == ["a_b", "1.5", "007", "10"]
