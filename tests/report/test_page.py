"""Pages: complete, self-contained, escaped, readable."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.evaluation.figures import score
from dhpf.matching import drawing
from dhpf.report import pictures, test_report
from dhpf.report.gallery import pair_picture
from dhpf.report.page import Picture, Section, write_report
from tests.helpers.pages import HOSTILE, assert_self_contained
from tests.helpers.tables import random_pairs, table_of

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
    pairs = random_pairs(0, 6)
    pairs[0][0]["category"] = HOSTILE
    figures = score(table_of(pairs, selection=torch.rand(6, 15).round()), [0.1])
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
