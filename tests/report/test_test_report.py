"""The report of a test: the figures, pairs and pictures of what was really measured."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.data import open_benchmark
from dhpf.evaluation.figures import measure
from dhpf.evaluation.predictions import read_predictions
from dhpf.matching import drawing
from dhpf.report import test_report
from tests.helpers import tiny
from tests.helpers.commands import succeed
from tests.helpers.pages import assert_self_contained

SMALL = "--img-side 64 --workers 0 --device cpu --no-download"


def reported(folder: Path, benchmark: str, pairs: int, more: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The run folder of a test, and the arguments of each photograph's picture by their title."""
    tiny.MAKERS[benchmark](folder, pairs=pairs)
    drawn: list[dict[str, Any]] = []
    draw = test_report.pair_picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_report, "pair_picture", lambda **pair: drawn.append(pair) or draw(**pair))
        arguments = f"test.py --benchmark {benchmark} --datapath . --logpath {folder}/run {SMALL} {more}"
        succeed(folder, arguments, reports=True)
    titles = {pair["title"]: pair for pair in drawn}
    assert len(titles) == len(drawn)  # each is in one gallery
    return folder / "run", titles


@pytest.fixture(scope="module")
def pfpascal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    return reported(tmp_path_factory.mktemp("pfpascal"), "pfpascal", 4, "--untrained --alpha 0.05 0.1 0.15")


def listed_in(page: str) -> Any:
    """What a report lists."""
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    return json.loads(content)


def test_a_report_has_figures_pictures_options_and_versions(pfpascal: Any) -> None:
    folder, drawn = pfpascal
    page = assert_self_contained((folder / "report.html").read_text())
    figures = json.loads((folder / "results.json").read_text())["figures"]
    main = next(f for f in figures["totals"] if f["name"] == "PCK@0.1")
    assert f"{main['value']:.1f} %" in page.text("b")
    facts = dict(zip(page.text("dt"), page.text("dd"), strict=True))
    assert facts["img_side"] == "64"
    assert facts["command"].endswith("--alpha 0.05 0.1 0.15")
    assert "pairs/s" in facts["time"]
    assert {"torch", "memory", "list"} <= facts.keys()
    shown, folded = (
        page.texts.index(("h2", "Options")),
        page.texts.index(("summary", "Options at their defaults")),
    )
    assert shown < page.texts.index(("dt", "img_side")) < folded < page.texts.index(("dt", "thres"))
    kinds = [attrs["alt"].partition(":")[0] for attrs in page.all("img")]
    assert kinds == ["Curves", "Heat map", *["Matches"] * len(drawn)]
    assert len(drawn) == 4


def test_photographs_and_points_are_those_of_the_stored_images(pfpascal: Any) -> None:
    folder, drawn = pfpascal
    benchmark = open_benchmark("pfpascal", folder.parent, "test", img_side=64)
    predictions = read_predictions(folder / "predictions.csv.gz")
    title, pair = next(iter(drawn.items()))
    number = int(re.findall(r"pair (\d+)", title)[0])
    annotated = benchmark.complete(benchmark.pairs[number])
    assert pair["src_kps"] == pytest.approx(annotated.src_kps, abs=1e-3)
    assert pair["trg_kps"] == pytest.approx(annotated.trg_kps, abs=1e-3)
    predicted = predictions[predictions.pair == number][["predicted_x", "predicted_y"]].to_numpy().T
    assert pytest.approx(predicted.T / 64 * pair["trg_image"].size) == pair["predicted"].T
    for end in ("src", "trg"):
        stored = benchmark.pil_image(getattr(annotated, f"{end}_key"))
        assert np.array_equal(pair[f"{end}_image"], stored)


def test_pictures_for_papers_and_the_curves_numbers(pfpascal: Any) -> None:
    folder, _ = pfpascal
    for name in ("matches", "layers", "pck-curve"):
        with Image.open(folder / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 150
            assert len(picture.convert("RGB").getcolors(1 << 20) or range(1000)) > 10
        assert (folder / "pictures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    curve = pd.read_csv(folder / "pictures" / "pck-curve.csv", index_col="alpha")
    assert curve.index.tolist() == pytest.approx(np.linspace(0.01, 0.2, 20))
    for figure in json.loads((folder / "results.json").read_text())["figures"]["totals"]:
        name = f"mean over {figure['average']}, {figure['frame']}"
        assert curve[name][figure["alpha"]] == pytest.approx(figure["value"])


def test_without_a_report_a_test_leaves_its_figures(tmp_path: Path) -> None:
    tiny.make_pfwillow(tmp_path, pairs=2)
    options = "--benchmark pfwillow --datapath . --img-side 64 --workers 0 --device cpu --no-download"
    succeed(tmp_path, f"test.py {options} --no-report --logpath plain", reports=True)
    left = {path.name for path in (tmp_path / "logs" / "plain").glob("[!.]*")}
    assert left == {"log.txt", "options.json", "predictions.csv.gz", "results.json"}


def test_every_pair_is_listed_with_a_page_or_the_command_that_draws_it(tmp_path: Path, undrawn: None) -> None:
    """The worst first. As many pages as are asked for; a command draws the measured pair, in any folder."""
    more = "--raw --layers 3,9 --thres img --explore-pairs 4"
    folder, drawn = reported(tmp_path, "spair", 12, more)
    page = (folder / "report.html").read_text()
    listed = listed_in(page)
    _, by_pair = measure(read_predictions(folder / "predictions.csv.gz"), [0.1], "img")[0]
    assert {row[0]: row[5] for row in listed["rows"]} == pytest.approx(by_pair.round(1).to_dict())
    assert [row[5] for row in listed["rows"]] == sorted(row[5] for row in listed["rows"])
    benchmark = open_benchmark("spair", tmp_path, "test", img_side=64)
    for pair, category, source, target, count, _ in listed["rows"]:
        sample = benchmark.annotation(pair)
        assert (category, source, target) == (sample["category"], sample["src_key"], sample["trg_key"])
        assert count == sample["n_pts"]

    first = [re.findall(r"pair (\d+)", title)[0] for title in drawn][:4]  # those that are shown first
    assert {path.stem for path in (folder / "explorer").iterdir()} == set(first) == listed["links"].keys()
    for address in listed["links"].values():
        data = json.loads(re.findall('id="data">(.*?)</script>', (folder / address).read_text())[0])
        assert all((folder / "explorer" / name).is_file() for name in data["names"])
        assert f'<a href="{address}">explore it</a>' in page

    other = next(row[0] for row in listed["rows"] if str(row[0]) not in first)
    command = shlex.split(f"{listed['command']} {other}")
    with pytest.MonkeyPatch.context() as patch:
        arguments: dict[str, Any] = {}
        patch.setattr(drawing, "matches", lambda *_, **named: arguments.update(named))
        (tmp_path / "elsewhere").mkdir()
        start = next(k for k, word in enumerate(command) if word.startswith("--"))
        succeed(tmp_path / "elsewhere", shlex.join(["match.py", *command[start:], "--device", "cpu"]))
    assert arguments["correct"].mean() * 100 == pytest.approx(by_pair[other])


def test_results_outlive_a_report_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bytes:
        raise UserError("cannot be written (No space left on device)")

    monkeypatch.setattr(drawing, "render", full)
    with pytest.raises(AssertionError, match="No space left"):
        reported(tmp_path, "pfwillow", 3, "--raw --explore-pairs 0")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["figures"]["n_pairs"] == 3
    assert len(read_predictions(tmp_path / "run" / "predictions.csv.gz")) == 30
