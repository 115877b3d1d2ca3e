"""The report: complete, self-contained, escaped, bounded."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.evaluation.score import COLUMNS, score
from dhpf.report import page as report
from dhpf.report import pictures

pytestmark = pytest.mark.filterwarnings("error")
VOID = {"meta", "img", "br"}
HOSTILE = """</title><script src="http://example.org/x.js">alert('1')</script> & "cat" {0}"""


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
            rows.append(row | {"point": point} | at)
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS)).astype(COLUMNS)


def write(tmp_path, *sections, title="DHPF"):
    report.write_report(tmp_path / "report.html", title, sections)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def assert_self_contained(html):
    page = Page(html)
    policy = [
        attrs["content"]
        for tag, attrs in page.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs)
        for name in {"src", "href", "srcset", "data", "action", "background"} & attrs.keys():
            assert (tag, name) == ("img", "src")
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


def test_every_total_is_there_with_value_counts_and_definition(tmp_path):
    figures = score(table("pfpascal", ["cat", "dog"]), [0.05, 0.1])
    page = assert_self_contained(write(tmp_path, report.evaluation(figures)))
    cells = page.text("td")
    rows = [cells[i : i + 5] for i in range(0, 5 * 16, 5)]
    totals = figures["totals"] + figures["without_leaked"]
    assert len(totals) == 16
    for row, figure in zip(rows, totals, strict=True):
        assert row[:4] == [
            figure["name"], f"{figure['value']:.2f} %", str(figure["n_pairs"]), str(figure["n_points"])
        ]  # fmt: skip
        assert row[4].startswith(f"{figure['definition']}; {figure['basis']}")
        assert row[4].endswith("(the paper’s definition)") == figure["paper"]
    assert "pfpascal, split test: 6 pairs, of which 1 without key-points are in no figure." in page.text("p")


def test_headline_and_groups_take_the_usual_alpha_of_several(tmp_path):
    figures = score(table("spair", ["cat", "dog"]), [0.02, 0.1, 0.3])
    page = assert_self_contained(write(tmp_path, report.evaluation(figures)))
    headline = next(f for f in figures["totals"] if f["name"] == "PCK@0.1")
    assert page.text("b") == [f"{headline['value']:.2f} %"]
    cells = page.text("td")
    for name, group in figures["categories"].items():
        assert cells[cells.index(name) + 1] == f"{group[4]['value']:.2f} %"
    assert "By category and by α" in page.text("h2")


def test_pck_against_alpha_can_come_from_figures_of_its_own(tmp_path):
    figures = score(table("spair", ["cat"]), [0.1])
    with_curve = report.evaluation(figures, score(table("spair", ["cat"]), [0.1, 0.05])["totals"])
    assert len(Page(with_curve).images()) == len(Page(report.evaluation(figures)).images()) + 1


def test_difficulty_names_unknown_grades(tmp_path):
    figures = score(table("spair", ["cat"]), [0.1])
    cells = Page(report.evaluation(figures)).text("td")
    for label in ("viewpoint", "scale", "truncation", "occlusion"):
        i = cells.index(label)
        assert cells[i + 1] == ("easy" if label in ("viewpoint", "scale") else "none")
    assert cells[cells.index("unknown") + 1 :][:3] == [
        "undefined",
        "0",
        "0",
    ]  # only a pair without key-points


def test_outlines_are_reported_without_alpha(tmp_path):
    figures = score(table("caltech", ["cat", "dog"]), [0.1])
    page = assert_self_contained(write(tmp_path, report.evaluation(figures)))
    assert page.text("b") == [f"{f['value']:.4f}" for f in figures["totals"]]
    assert "By category" in page.text("h2")
    assert len(page.images()) == 3  # a chart for LT-ACC, one for IoU, layers


def test_a_run_without_layer_selection_has_no_such_section():
    without = table("pfwillow", ["cat"]).assign(layer_sel="")
    assert "Selected layers" not in report.evaluation(score(without, [0.1], "img"))


def test_text_from_data_is_escaped_everywhere(tmp_path):
    figures = score(table("spair", [HOSTILE]), [0.1])
    picture = pictures.category_bars({HOSTILE: 1.0})
    sections = [
        report.evaluation(figures, pairs={HOSTILE: [(HOSTILE, picture)]}),
        report.facts(HOSTILE, {HOSTILE: HOSTILE, "list": [HOSTILE]}),
        report.table([HOSTILE], [[HOSTILE]]),
    ]
    page = assert_self_contained(write(tmp_path, *sections, title=HOSTILE))
    for tag in ("title", "h1", "h2", "dt", "dd", "th", "td", "figcaption"):
        assert HOSTILE in page.text(tag)  # and is read back as it was
    assert any(attrs["alt"].endswith(HOSTILE) for attrs in page.images())


def test_facts_are_written_as_people_write_them():
    page = Page(
        report.facts("Timing", {"rate": 5.77123456, "alpha": [0.05, 0.1], "skipped": [], "commit": None})
    )
    assert page.text("dd") == ["5.77123", "0.05, 0.1", "none", "None"]


def test_training_has_its_curves(tmp_path):
    history = pd.DataFrame(
        {name: [1.0, 2.0] for name in ("epoch", "trn_loss", "val_loss", "trn_pck", "val_pck")}
    )
    page = assert_self_contained(write(tmp_path, report.training(history, np.full((2, 15), 0.5))))
    assert len(page.images()) == 1


def test_the_largest_report_stays_small(tmp_path):
    figures = score(table("caltech", [f"category {i}" for i in range(101)], pairs=101, layers=34), [0.1])
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)  # far harder to compress than a photograph
    photograph = Image.fromarray(noise).resize((500, 400), Image.Resampling.BICUBIC)
    kps = rng.uniform(0, 400, (2, 20))
    pair = report.picture(pictures.matches(photograph, photograph, kps, kps), "a → b", "Matches", "jpg")
    html = write(tmp_path, report.evaluation(figures), *[pair] * 9)
    assert len(Page(html).images()) == 12
    assert len(html) < 3_000_000


def test_a_report_is_replaced_as_a_whole_and_the_same_again(tmp_path):
    sections = [
        report.evaluation(score(table("spair", ["cat"]), [0.1])),
        report.facts("Options", {"thres": "auto"}),
    ]
    assert write(tmp_path, *sections) == write(tmp_path, *sections)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        report.write_report(tmp_path / "file" / "report.html", "DHPF", [])
