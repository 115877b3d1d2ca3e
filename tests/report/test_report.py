"""The report: complete, self-contained, escaped."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.common.run import RESOURCES, Run
from dhpf.data import BENCHMARKS
from dhpf.evaluation.figures import score
from dhpf.evaluation.predictions import columns
from dhpf.report import pictures
from dhpf.report.page import Section, picture, write_report
from dhpf.report.test_report import evaluation
from dhpf.report.training_report import report_training
from tests.helpers import chromium

pytestmark = pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")
VOID = {"meta", "img", "br", "input"}
PAIR = {
    "src_image": np.zeros((4, 6, 3), np.uint8), "trg_image": np.ones((5, 5, 3), np.uint8),
    "src_kps": np.ones((2, 3)), "predicted": np.ones((2, 3)), "title": "pair 3",
}  # fmt: skip
HOSTILE = (
    """</title><script src="http://example.org/x.js">alert('1')</script> & "cat" {0} {{ 7 * 7 }} {% x %}"""
)

HISTORY = [f"{split}_{name}" for split in ("trn", "val") for name in ("loss", "pck", "selection_loss")]
HISTORY += ["selection/00", "selection/01"]


class Page(HTMLParser):
    """What a reader finds: elements with attributes, text by element, and whether all that opens closes."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, *tags):
        return [data for tag, data in self.texts if tag in tags]

    def images(self):
        return [attrs for tag, attrs in self.elements if tag == "img"]


def table(benchmark, categories, pairs=6, points=5, layers=15):
    """Predictions of some pairs, categories in turn; the first pair has no key-points and unknown difficulty."""
    rng = np.random.default_rng(0)
    rows = []
    for pair in range(pairs):
        n = points if pair else 0
        label = pair % 3 if benchmark == "spair" and pair else -1
        row = dict.fromkeys(("viewpoint_variation", "scale_variation", "truncation", "occlusion"), label) | {
            "benchmark": benchmark, "split": "test", "img_side": 240, "auto_thres": "img", "pair": pair,
            "source": "a.jpg", "target": "b.jpg", "category": categories[pair % len(categories)], "n_pts": n,
            "target_width": 500, "target_height": 300, "leaked": pair % 2 if benchmark == "pfpascal" else -1,
            "layer_sel": " ".join(map(str, rng.integers(0, 2, layers))),
        }  # fmt: skip
        for point in range(n) if n else [-1]:
            xy = rng.uniform(10, 230, 2) if n else np.full(2, np.nan)
            ends = {"source": xy, "target": xy, "predicted": xy + rng.normal(0, 20, 2)}
            at = {
                f"{end}_{axis}": value
                for end, place in ends.items()
                for axis, value in zip("xy", place, strict=True)
            }
            rows.append(row | {"point": point, "point_name": str(point + 1)} | at)
    types = columns(list(BENCHMARKS[benchmark].labels))
    return pd.DataFrame(rows).reindex(columns=list(types)).astype(types)


def written(tmp_path, *sections, title="DHPF"):
    write_report(tmp_path / "report.html", title, sections)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def assert_self_contained(html):
    page = Page(html)
    policy = [
        attrs["content"]
        for tag, attrs in page.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)  # the one that the policy names, or none
    allowed = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    more = "".join(f"; script-src 'sha256-{digest}'" for digest in allowed)
    assert policy == [f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{more}"]
    assert len(scripts) <= 1
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs)
        for name in {"src", "href", "srcset", "data", "action", "background"} & attrs.keys():
            assert (tag, name) == ("img", "src") or attrs[name].startswith("explorer/")
    assert not re.search(r"url\(|@import", "".join(page.text("style")))
    for attrs in page.images():
        assert attrs["alt"].strip()
        kind, _, content = attrs["src"].partition(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        assert kind == f"data:{image.get_format_mimetype()}"
        assert int(attrs["width"]) / int(attrs["height"]) == pytest.approx(
            image.width / image.height, rel=0.05
        )
    return page


def test_every_total_is_there_with_value_counts_and_definition(tmp_path, undrawn):
    figures = score(table("pfpascal", ["cat", "dog"]), [0.05, 0.1])
    page = Page(written(tmp_path, *evaluation(figures, {}, None, {})))
    cells = page.text("td")
    rows = [cells[i : i + 5] for i in range(0, 5 * 24, 5)]
    totals = figures["totals"] + figures["without_leaked"]
    assert len(totals) == 24
    for row, figure in zip(rows, totals, strict=True):
        assert row[:4] == [
            figure["name"], f"{figure['value']:.2f} %", str(figure["n_pairs"]), str(figure["n_points"])
        ]  # fmt: skip
        assert row[4].startswith(f"{figure['definition']}; {figure['basis']}")
        assert row[4].endswith("(the paper’s definition)") == figure["paper"]
    with_and_without = [figures[name][6]["value"] for name in ("totals", "without_leaked")]
    assert page.text("b") == [f"{value:.2f} %" for value in with_and_without]
    assert page.text("p")[:3] == figures["about"] == [
        "pfpascal test, categories cat, dog: 6 pairs, of which 1 without key-points are in no figure",
        "list: 6 pairs where the published test list has 299: no figure on it is the paper's",
        "train/test overlap: 3 of 6 pairs are training pairs",
    ]  # fmt: skip
    point = figures["points"]["values"]["cat 3"]
    at = cells.index("cat 3")
    assert cells[at + 1 : at + 4] == [f"{point[name]:.2f} %" for name in ("PCK@0.05", "PCK@0.1")] + ["2"]


def test_headline_and_groups_take_the_usual_alpha_of_several(tmp_path, undrawn):
    figures = score(table("spair", ["cat", "dog"]), [0.02, 0.1, 0.3])
    page = Page(written(tmp_path, *evaluation(figures, {}, None, {})))
    headline = next(f for f in figures["totals"] if f["name"] == "PCK@0.1")
    assert page.text("b") == [f"{headline['value']:.2f} %"]
    cells = page.text("td")
    for name, group in figures["categories"].items():
        assert cells[cells.index(name) + 1] == f"{group[6]['value']:.2f} %"
    for label in ("viewpoint", "scale", "truncation", "occlusion"):
        i = cells.index(label)
        assert cells[i + 1] == ("easy" if label in ("viewpoint", "scale") else "none")
    unknown = cells.index("unknown")  # only a pair without key-points
    assert cells[unknown + 1 :][:3] == ["undefined", "0", "0"]


def test_outlines_are_reported_without_alpha(tmp_path, undrawn):
    figures = score(table("caltech", ["cat", "dog"]), [0.1])
    page = Page(written(tmp_path, *evaluation(figures, {}, None, {})))
    assert page.text("b") == [f"{f['value']:.4f}" for f in figures["totals"][:2]]
    assert len(page.images()) == 2  # a chart for LT-ACC, one for IoU


def test_pictures_stand_under_what_they_show_and_headings_over_nothing_are_left_out(tmp_path, undrawn):
    figures = score(table("pfwillow", ["cat"]), [0.1], "img")
    bare = Page(written(tmp_path, *evaluation(figures, {}, None, {}), Section("Versions", facts={})))
    assert bare.text("h2") == ["Totals", "By category", "By point"]
    drawn = pictures.layer_selection({"cat": [0.5] * 15})
    sections = evaluation(figures, {"pairs": {0.05: 1.0, 0.1: 2.0}}, drawn, {"best": [PAIR], "worst": [PAIR]})
    page = Page(written(tmp_path, *sections))
    headings = ["By category and by α", "By point", "Selected layers", "Pairs: best", "Pairs: worst"]
    assert page.text("h2") == ["Totals", *headings]
    kinds = [attrs["alt"].partition(":")[0] for attrs in page.images()]
    assert kinds == ["Bar chart", "Curves", "Heat map", "Matches", "Matches"]


def test_text_from_data_is_escaped_everywhere_and_the_page_holds_all_it_shows(tmp_path):
    figures = score(table("spair", [HOSTILE]), [0.1])
    figures["layer_selection"]["definition"] = HOSTILE
    layers = pictures.layer_selection({HOSTILE: [0.5] * 15})
    sections = [
        *evaluation(figures, {HOSTILE: {0.1: 1.0}}, layers, {HOSTILE: [PAIR | {"title": HOSTILE}]}),
        Section(HOSTILE, text=HOSTILE, tiles=[(HOSTILE, HOSTILE, HOSTILE)]),
        Section(HOSTILE, [HOSTILE], [[HOSTILE]], folded=HOSTILE),
        Section("", facts={HOSTILE: HOSTILE, "list": [HOSTILE]}),
    ]
    page = assert_self_contained(written(tmp_path, *sections, title=HOSTILE))
    for tag in ("title", "h1", "h2", "p", "b", "small", "summary", "dt", "dd", "th", "td", "figcaption"):
        assert any(HOSTILE in text for text in page.text(tag)), tag  # and is read back as it was
    assert f"Matches: {HOSTILE}" in [attrs["alt"] for attrs in page.images()]


def test_a_long_table_is_in_the_page_as_data_and_its_first_rows_without_a_script(tmp_path):
    rows = [[n, HOSTILE, None if n > 28 else n / 7] for n in range(30)]
    section = Section(
        "All", ["Pair", "Name", "PCK"], rows, listed=True, command=HOSTILE, links={3: "explorer/3.html"}
    )
    page = assert_self_contained(written(tmp_path, section))
    data = json.loads(page.text("script")[0])
    assert (data["rows"], data["command"], data["links"]) == (rows, HOSTILE, {"3": "explorer/3.html"})
    assert page.text("code") == [f"{HOSTILE} {n}" for n in range(25) if n != 3]
    assert [attrs["href"] for tag, attrs in page.elements if tag == "a"] == ["explorer/3.html"]
    assert page.text("th") == ["Pair", "Name", "PCK", "Look"]


@chromium.needs_axe
def test_pages_are_accessible_on_screen_and_paper_and_hostile_names_stay_in_their_cells(tmp_path):
    """A report with a long table and a training's, in both schemes, on a phone and on paper, by axe-core."""
    long = "\u202e" + HOSTILE + "x" * 4000 + "../" * 9
    rows = [[n, long if n == 1 else "cat", "a.jpg", None if n == 7 else n * 1.5] for n in range(60)]
    figures = score(table("spair", [long, "cat"]), [0.1])
    drawn = picture(pictures.matches(**PAIR | {"title": ""}), "Matches", long, "jpg", "explorer/3.html")
    sections = [
        *evaluation(figures, {"pairs": {0.05: 1.0, 0.1: 2.0}}, None, {}),
        Section("Pairs: worst", pictures=[drawn, drawn]),
        Section(
            "All",
            ["Pair", "Name", "Image", "PCK"],
            rows,
            listed=True,
            command=f"python {long}",
            links={3: "explorer/3.html"},
        ),
        Section("Options", facts={long: long}),
    ]
    html = written(tmp_path, *sections, title=long)
    run = Run.create(tmp_path / "run", {"benchmark": long, "supervision": "strong"})
    for epoch in range(1, 4):
        run.record(epoch, dict.fromkeys(HISTORY, 1.5 * epoch))
        run.record(epoch, {"seconds": 60 * epoch, "memory": 2.5}, RESOURCES)
    run.close()
    report_training(tmp_path / "run")
    training = (tmp_path / "run" / "report.html").read_text()
    pages = {"phone": (390, "dark", html), "desk": (1280, "light", html), "paper": (700, "print", html)}
    found = chromium.looked_at(tmp_path, pages | {"training": (390, "light", training)})
    for name, what in found.items():
        assert what["violations"] == [], name
        assert {"color-contrast", "image-alt"} <= set(what["passed"])
        assert (what["wrong"], what["wide"]) == (None, 0), name


@chromium.needs_chromium
def test_a_long_table_is_searched_sorted_and_turned(tmp_path):
    """Clicks and typing in one Chromium; what is then seen comes back as a row of the table itself."""
    rows = [[n, "Dog" if n % 2 else HOSTILE, None if n == 7 else (n * 7) % 61] for n in range(60)]
    html = written(
        tmp_path, Section("All", ["Pair", "Name", "PCK"], rows, listed=True, command="draw --pair")
    )
    steps = """<script>
      const seen = [], cell = (row) => row.cells[0].textContent;
      const look = () => seen.push([...document.querySelectorAll("tbody tr")].map(cell),
        document.querySelector(".place").textContent, document.querySelector("[role=status]").textContent);
      const click = (what) => (document.querySelector(what).click(), look());
      const search = document.querySelector("input"), type = (text) => {
        search.value = text; search.dispatchEvent(new Event("input")); look(); };
      look(); click("[name=on]"); click("[name=last]");
      click("th:nth-child(3) button"); click("th:nth-child(3) button"); click("[name=last]");
      type("DOG"); type("</TITLE>"); type("nothing"); type("");
      document.title = "done";
      document.body.append(Object.assign(document.createElement("pre"), {textContent: JSON.stringify(seen)}));
      </script></body>"""
    html = html.replace('http-equiv="Content-Security-Policy"', "").replace("</body>", steps)
    (tmp_path / "steps.html").write_text(html)
    page = Page(chromium.dump((tmp_path / "steps.html").as_uri()))
    seen = json.loads(page.text("pre")[0])
    shown, places, counts = ([*seen[k::3]] for k in range(3))
    order = sorted((r for r in rows if r[2] is not None), key=lambda row: row[2])
    rising, falling = ([str(r[0]) for r in of] for of in (order, order[::-1]))
    assert shown[:3] == [[str(n) for n in range(a, b)] for a, b in ((0, 25), (25, 50), (50, 60))]
    assert shown[3:5] == [rising[:25], falling[:25]]
    assert shown[5] == [*falling[50:], "7"]  # what is undefined stands last either way
    assert shown[6] == [n for n in [*falling, "7"] if int(n) % 2][:25]
    assert shown[7] == [n for n in falling if not int(n) % 2][:25]
    assert shown[8] == []
    assert shown[9] == falling[:25]
    assert places[2] == "page 3 of 3"
    assert counts[6:9] == ["30 of 60 rows", "30 of 60 rows", "0 of 60 rows"]
    assert [attrs.get("aria-sort") for tag, attrs in page.elements if tag == "th"] == [
        None,
        None,
        "descending",
        None,
    ]
    assert HOSTILE in page.text("td")


def test_numbers_stand_to_the_right_and_long_text_gets_its_own_line_on_a_phone(tmp_path):
    rows = [["cat", 1.5, "undefined", "short"], ["dog", "12 %", 3, "x" * 61]]
    page = Page(written(tmp_path, Section("", ["a", "b", "c", "d"], rows)))
    kinds = ["text", "number", "number", "long"]
    assert [attrs["class"] for tag, attrs in page.elements if tag in ("th", "td")] == kinds * 3
    assert ("table", {"class": "stacked"}) in page.elements


def test_facts_are_written_as_people_write_them(tmp_path):
    facts = {"rate": 5.77123456, "alpha": [0.05, 0.1], "skipped": [], "commit": None}
    page = Page(written(tmp_path, Section("Timing", facts=facts)))
    assert page.text("dd") == ["5.77123", "0.05, 0.1", "none", "None"]


def test_a_report_is_replaced_as_a_whole_and_the_same_again(tmp_path):
    sections = [Section("Bars", pictures=[picture(pictures.category_bars({"cat": 1.0}, "PCK", 100), "", "")])]
    assert written(tmp_path, *sections) == written(tmp_path, *sections)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", "DHPF", [])
