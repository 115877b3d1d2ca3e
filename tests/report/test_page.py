"""Pages: complete, self-contained, escaped, readable."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.evaluation.figures import score
from dhpf.matching import drawing
from dhpf.report import pictures, test_report
from dhpf.report.gallery import pair_picture
from dhpf.report.page import Picture, Section, write_report
from tests.helpers import chromium
from tests.helpers.pages import HOSTILE, Page, assert_self_contained
from tests.helpers.tables import random_table

pytestmark = pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")


def photographs(title: str, link: str = "") -> Picture:
    points = np.array([[1.0, 2, 3], [1, 2, np.nan]])
    images = Image.new("RGB", (6, 4)), Image.new("RGB", (5, 5))
    return pair_picture(
        *images, points[:, :2], points[:, 1:], points[:, :2], np.array([True, False]), title, link
    )


def written(folder: Any, *sections: Section, title: str = "DHPF") -> str:
    write_report(folder / "report.html", title, sections)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_text_from_data_is_escaped_everywhere_and_the_page_holds_all_it_shows(tmp_path):
    figures = score(random_table("spair", [HOSTILE, "cat"]), [0.1])
    figures["layer_selection"]["definition"] = HOSTILE
    layers = drawing.render(pictures.layer_selection({HOSTILE: [0.5] * 15}), "png", 50)
    sections = [
        *test_report.summary(HOSTILE, figures, {"layers": layers}),
        *test_report.details(figures),
        Section(HOSTILE, text=HOSTILE, tiles=[(HOSTILE, HOSTILE, HOSTILE)]),
        Section("Pairs", pictures=[photographs(HOSTILE)]),
        Section(HOSTILE, [HOSTILE], [[HOSTILE]], folded=True),
        Section("", facts={HOSTILE: HOSTILE, "list": [HOSTILE]}),
    ]
    page = assert_self_contained(written(tmp_path, *sections, title=HOSTILE))
    for tag in ("title", "h1", "h2", "p", "b", "small", "summary", "dt", "dd", "th", "td", "figcaption"):
        assert any(HOSTILE in text for text in page.text(tag)), tag  # and is read back as it was
    assert f"Matches: {HOSTILE}" in [attrs["alt"] for attrs in page.all("img")]


def test_a_long_table_is_in_the_page_as_data_and_its_first_rows_without_a_script(tmp_path):
    rows = [[n, HOSTILE, None if n > 28 else n / 7] for n in range(30)]
    links = {3: "explorer/3.html"}
    section = Section("All", ["Pair", "Name", "PCK"], rows, paged=True, command=HOSTILE, links=links)
    page = assert_self_contained(written(tmp_path, section))
    data = json.loads(page.text("script")[0])
    assert (data["rows"], data["command"], data["links"]) == (rows, HOSTILE, {"3": "explorer/3.html"})
    assert page.text("code") == [f"{HOSTILE} {n}" for n in range(25) if n != 3]
    assert [attrs["href"] for attrs in page.all("a")] == ["explorer/3.html"]
    assert page.text("th") == ["Pair", "Name", "PCK", "Look"]


def test_a_report_is_replaced_as_a_whole_and_the_same_again(tmp_path):
    curve = Picture.of_figure(pictures.pck_curve({"frame": {0.1: 1.0}}), "Curves", "")
    section = Section("Curve", pictures=[curve, photographs("")])
    assert written(tmp_path, section) == written(tmp_path, section)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        write_report(tmp_path / "file" / "report.html", "DHPF", [])


@chromium.needs_chromium
def test_a_long_table_is_searched_sorted_turned_and_copied(tmp_path):
    """Clicks and typing in one Chromium; what is then seen comes back as text. Without a clipboard, as over plain
    http, a command is copied from a selected field, and "Copied" is said only if it was."""
    rows = [[n, "Dog" if n % 2 else HOSTILE, None if n == 7 else (n * 7) % 61] for n in range(60)]
    html = written(tmp_path, Section("All", ["Pair", "Name", "PCK"], rows, paged=True, command="draw --pair"))
    steps = """<script>
      const seen = [], cell = (row) => row.cells[0].textContent, status = document.querySelector("[role=status]");
      const look = () => seen.push([...document.querySelectorAll("tbody tr")].map(cell),
        document.querySelector(".position").textContent, status.textContent);
      const click = (what) => (document.querySelector(what).click(), look());
      const search = document.querySelector("input"), type = (text) => {
        search.value = text; search.dispatchEvent(new Event("input")); look(); };
      const copy = async (works) => {
        let selected = "";
        Object.defineProperty(navigator, "clipboard", {value: undefined, configurable: true});
        document.execCommand = () => { selected = document.activeElement.value; return works; };
        document.querySelector("td.command button").click();
        await new Promise((done) => setTimeout(done));
        return [selected, status.textContent];
      };
      look(); click("[name=on]"); click("[name=last]");
      click("th:nth-child(3) button"); click("th:nth-child(3) button"); click("[name=last]");
      type("DOG"); type("</TITLE>"); type("nothing"); type("");
      (async () => {
        seen.push(await copy(true), await copy(false));
        document.body.append(Object.assign(document.createElement("pre"), {textContent: JSON.stringify(seen)}));
      })();
      </script></body>"""
    html = html.replace('http-equiv="Content-Security-Policy"', "").replace("</body>", steps)
    (tmp_path / "steps.html").write_text(html)
    page = Page(chromium.dump((tmp_path / "steps.html").as_uri()))
    *seen, copied, failed = json.loads(page.text("pre")[0])
    shown, positions, counts = ([*seen[k::3]] for k in range(3))
    order = sorted((r for r in rows if r[2] is not None), key=lambda row: row[2])
    rising, falling = ([str(r[0]) for r in of] for of in (order, order[::-1]))
    assert shown[:3] == [[str(n) for n in range(a, b)] for a, b in ((0, 25), (25, 50), (50, 60))]
    assert shown[3:5] == [rising[:25], falling[:25]]
    assert shown[5] == [*falling[50:], "7"]  # what is undefined stands last either way
    assert shown[6] == [n for n in [*falling, "7"] if int(n) % 2][:25]
    assert shown[7] == [n for n in falling if not int(n) % 2][:25]
    assert (shown[8], shown[9]) == ([], falling[:25])
    assert positions[2] == "page 3 of 3"
    assert counts[6:9] == ["30 of 60 rows", "30 of 60 rows", "0 of 60 rows"]
    assert [attrs.get("aria-sort") for attrs in page.all("th")] == [None, None, "descending", None]
    assert HOSTILE in page.text("td")
    command = f"draw --pair {falling[0]}"
    assert copied == [command, f"Copied: {command}"]
    assert failed[0] == command
    assert not failed[1].startswith("Copied")
