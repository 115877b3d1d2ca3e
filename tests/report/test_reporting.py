"""What a run leaves for people: reports and pictures of what was really measured and shown."""

import base64
import html
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dhpf.common.errors import UserError
from dhpf.common.run import Run
from dhpf.data import open_benchmark
from dhpf.evaluation.figures import measure
from dhpf.evaluation.predictions import read_predictions
from dhpf.programs import train
from dhpf.programs.test import parser
from dhpf.programs.testing import drawing, evaluate
from dhpf.report import pictures, training_report
from tests.helpers import tiny, tiny_own
from tests.helpers.commands import succeed

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


def report_of(folder: Path, benchmark: str, pairs: int, *more: str) -> tuple[Path, list[dict[str, Any]]]:
    """The run folder of an evaluation with an untrained learner, and the arguments of each pair's picture."""
    tiny.MAKERS[benchmark](folder, pairs=pairs)
    arguments = (
        f"--benchmark {benchmark} --datapath {folder} --logpath {folder}/run --img-side 64 --workers 0"
    )
    drawn: list[dict[str, Any]] = []
    matches = pictures.matches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "matches", lambda **pair: drawn.append(pair) or matches(**pair))
        evaluate(parser().parse([*arguments.split(), "--device", "cpu", *more]))
    return folder / "run", drawn


@pytest.fixture(scope="module")
def pfpascal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    return report_of(tmp_path_factory.mktemp("pfpascal"), "pfpascal", 4, "--alpha", "0.05", "0.1", "0.15")


def test_the_report_holds_figures_pictures_options_and_versions(pfpascal: Any) -> None:
    folder, drawn = pfpascal
    page = (folder / "report.html").read_text()
    results = json.loads((folder / "results.json").read_text())
    for figure in results["figures"]["totals"]:
        assert f"{figure['value']:.2f} %" in page
    for text in (
        "<p>efficientnet_lite0, learner: untrained, drawn from seed 0</p>",
        "Selected layers",
        "PCK against α",
        "GiB",
        "pairs/s",
        "<dt>img_side</dt><dd>64</dd>",
        "<dt>torch</dt>",
    ):
        assert text in page
    assert len(drawn) == 4  # each is drawn once
    assert (
        page.count("data:image/jpeg") == 3 + 2 * 2
    )  # best, median, worst; of two pairs a category worst and best
    assert not re.search(r"https?://", page)


def test_pairs_are_the_best_the_median_and_the_worst_of_the_headline(pfpascal: Any) -> None:
    folder, drawn = pfpascal
    _, by_pair = measure(read_predictions(folder / "predictions.csv.gz"), [0.1])[0]
    shown = [float(np.mean(pair["correct"]) * 100) for pair in drawn[:3]]
    ranked = sorted(by_pair, reverse=True)
    assert shown == pytest.approx([ranked[0], ranked[1], ranked[-1]])
    page = (folder / "report.html").read_text()
    assert f"<p>PCK@0.1 <b>{by_pair.mean():.2f} %</b>" in page
    for heading, value in zip(("best", "median", "worst"), shown, strict=True):
        section = page.split(f"Pairs: {heading}</h2>")[1]
        assert f"PCK@0.1 {value:.1f} %" in section[: section.index("</figcaption>")]


def test_photographs_and_points_are_in_the_frame(pfpascal: Any) -> None:
    folder, drawn = pfpascal
    table = read_predictions(folder / "predictions.csv.gz")
    benchmark = open_benchmark("pfpascal", folder.parent, "test", img_side=64)
    _, by_pair = measure(table, [0.1])[0]
    best = pictures.extremes(by_pair)["best"][0]
    assert by_pair[best] == by_pair.max()
    sample = benchmark.annotation(int(best))
    n = sample["n_pts"]
    assert drawn[0]["src_kps"] == pytest.approx(sample["src_kps"][:, :n].numpy())
    assert drawn[0]["trg_kps"] == pytest.approx(sample["trg_kps"][:, :n].numpy())
    rows = table[table.pair == best]
    assert drawn[0]["predicted"] == pytest.approx(rows[["predicted_x", "predicted_y"]].to_numpy().T)
    for end in ("src", "trg"):
        with Image.open(benchmark.root / sample[f"{end}_key"]) as stored:
            expected = stored.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        assert np.array_equal(drawn[0][f"{end}_image"], np.asarray(expected))


def test_every_pair_is_listed_the_worst_first_with_a_page_or_the_command_that_draws_it(
    tmp_path: Path,
) -> None:
    """The command, typed as it stands, draws the pair that the test measured."""
    tiny.make_spair(tmp_path, pairs=12)
    options = "--benchmark spair --datapath . --raw --layers 3,9 --img-side 64 --workers 0 --device cpu --no-download"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(pictures, "render", lambda *_: PIXEL)
        patch.setattr(
            pictures,
            "extremes",
            lambda values, n=1: {"best": [int(values.idxmax())], "median": [], "worst": []},
        )
        evaluate(parser().parse([*options.split(), "--logpath", str(tmp_path / "run"), "--thres", "img"]))
    folder = tmp_path / "run"
    listed = listed_in((folder / "report.html").read_text())
    _, by_pair = measure(read_predictions(folder / "predictions.csv.gz"), [0.1], "img")[0]
    assert {row[0]: row[5] for row in listed["rows"]} == pytest.approx(by_pair.round(4).to_dict())
    assert [row[5] for row in listed["rows"]] == sorted(row[5] for row in listed["rows"])
    benchmark = open_benchmark("spair", tmp_path, "test", img_side=64)
    for pair, category, source, target, count, _ in listed["rows"]:
        sample = benchmark.annotation(pair)
        assert (category, source, target) == (sample["category"], sample["src_key"], sample["trg_key"])
        assert count == sample["n_pts"]

    assert {f"explorer/{path.name}" for path in (folder / "explorer").iterdir()} == set(
        listed["links"].values()
    )
    for address in listed["links"].values():
        about = json.loads(re.search('id="about">(.*?)</script>', (folder / address).read_text())[1])  # type: ignore[index]
        assert all((folder / "explorer" / name).is_file() for name in about["names"])
        assert f'<a href="{address}">explore it</a>' in (folder / "report.html").read_text()

    worst = listed["rows"][0][0]
    command = f"{listed['command']} {worst}".removeprefix("python ")
    assert "--thres img --" in command
    assert "device" not in command
    with pytest.MonkeyPatch.context() as patch:
        drawn: dict[str, Any] = {}
        patch.setattr(pictures, "render", lambda *_: PIXEL)
        patch.setattr(pictures, "matches", lambda *_, **named: drawn.update(named))
        succeed(tmp_path, f"{command} --device cpu")
    assert drawn["correct"].mean() * 100 == pytest.approx(by_pair[worst])
    assert f"spair-test-{worst}.csv" in {path.name for path in (tmp_path / "matches").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ("--benchmark spair", ""),  # an untrained learner is in no file
        ("--benchmark spair --layers 1,2", ""),
        ("--raw", "python match.py --raw --benchmark synthetic --pair"),
        (
            "--raw --layers 1,2 --voting none --list 'a b.csv' --categories cat,dog --split val --alpha 0.2",
            "python match.py --list 'a b.csv' --categories cat,dog --voting none --layers 1,2 --raw "
            "--benchmark synthetic --split val --pair",
        ),
    ],
)
def test_the_command_names_what_decides_a_prediction(arguments: str, command: str) -> None:
    given = parser().parse(shlex.split(arguments))
    assert sorted(shlex.split(drawing(given))) == sorted(shlex.split(command))


def listed_in(page: str) -> Any:
    """What a report lists."""
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    return json.loads(content)


def test_hostile_categories_leave_room_for_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names that begin alike, with HTML, a path, and characters that turn the text behind them around."""
    content = tiny_own.coco(tmp_path)
    for category, end in zip(content["categories"], ("x" * 4000, "y"), strict=True):
        category["name"] = "\u202e../<b onclick='x'>&\"$x^" + "." * 30 + end
    path = tiny_own.make_coco(tmp_path, content)
    titles: list[str] = []
    monkeypatch.setattr(pictures, "render", lambda *_: PIXEL)
    monkeypatch.setattr(
        pictures,
        "contact_sheet",
        lambda groups: titles.extend(p["title"] for g in groups.values() for p in g),
    )
    where = f"--benchmark coco --datapath {path} --images {tmp_path}/images"
    options = f"{where} --raw --img-side 64 --workers 0 --device cpu"
    evaluate(parser().parse([*options.split(), "--logpath", str(tmp_path / "run")]))
    assert titles
    assert all(len(title) < 80 and "\u202e" not in title for title in titles)
    page = (tmp_path / "run" / "report.html").read_text()
    headings = re.findall("<h2>(Pairs: .*?)</h2>", page)
    assert len(headings) == 5  # best, median, worst; two categories
    assert max(map(len, map(html.unescape, headings))) < 70
    assert "<b onclick" not in page
    assert {row[1] for row in listed_in(page)["rows"]} == {
        category["name"] for category in content["categories"]
    }
    assert {path.name for path in tmp_path.iterdir()} == {"own.json", "images", "run"}


def test_the_curve_is_a_table_too(pfpascal: Any) -> None:
    folder, _ = pfpascal
    curve = pd.read_csv(folder / "pictures" / "pck-curve.csv", index_col="alpha")
    assert curve.index.tolist() == pytest.approx(np.linspace(0.01, 0.2, 20))
    results = json.loads((folder / "results.json").read_text())
    for figure in results["figures"]["totals"]:
        name = f"mean over {figure['average']}, {figure['frame']}"
        assert curve[name][figure["alpha"]] == pytest.approx(figure["value"])
    assert results["list"]["file"] == "test_pairs.csv"


def test_pictures_for_papers(pfpascal: Any) -> None:
    folder, _ = pfpascal
    for name in ("matches", "layers", "pck-curve"):
        with Image.open(folder / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 150
            assert len(picture.convert("RGB").getcolors(1 << 20) or range(1000)) > 10
        assert (folder / "pictures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_outlines_have_no_single_correct_points(tmp_path: Path, undrawn: None) -> None:
    folder, drawn = report_of(tmp_path, "caltech", 3)
    assert all(pair["correct"] is None for pair in drawn)
    assert any(pair["src_kps"].shape != pair["trg_kps"].shape for pair in drawn)
    for pair in drawn:
        assert pair["src_kps"].shape == pair["predicted"].shape
        assert np.isfinite(pair["trg_kps"]).all()
    assert re.search(r"LT-ACC 0\.\d{3}<", (folder / "report.html").read_text())


def test_results_outlive_a_report_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bytes:
        raise UserError("cannot be written (No space left on device)")

    monkeypatch.setattr(pictures, "render", full)
    with pytest.raises(UserError, match="No space left"):
        report_of(tmp_path, "pfwillow", 3)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["figures"]["n_pairs"] == 3
    assert len(read_predictions(tmp_path / "run" / "predictions.csv.gz")) == 30


def test_training_ends_with_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.make_pfpascal(tmp_path, pairs=4)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process keeps its own handlers
    drawn: list[Any] = []
    curves = pictures.training_curves
    monkeypatch.setattr(pictures, "training_curves", lambda data: drawn.append(curves(data)) or drawn[0])
    arguments = (
        f"--benchmark pfpascal --datapath {tmp_path} --logpath {tmp_path}/run --img-side 64 --workers 0"
    )
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments.split(), "--bsz", "2", "--niter", "2"])
    train.main()
    last = (tmp_path / "run" / "history.csv").read_text().splitlines()[-1].split(",")
    loss, _, rates, _ = drawn[0].axes
    assert loss.lines[0].get_xdata().tolist() == [1, 2]
    shown = rates.images[0].get_array()
    assert shown[:, 1].tolist() == pytest.approx([float(value) for value in last[-len(shown) :]])
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert "Training of DHPF on pfpascal, strong supervision" in page
    assert "<dt>lr</dt><dd>0.03</dd>" in page

    history = pd.read_csv(tmp_path / "run" / "history.csv")
    spent = pd.read_csv(tmp_path / "run" / "time_and_memory.csv")
    assert spent.epoch.tolist() == [1, 2]
    assert (spent.memory > 0.1).all()
    assert f"<b>{history.val_pck.max():.2f} %</b>" in page
    assert f"<b>{spent.memory.max():.2f} GiB</b>" in page
    rates = history.filter(regex="^selection/")
    assert f"<b>{rates.iloc[-1].sum():.1f} of {rates.shape[1]}</b>" in page
    for split in ("trn", "val"):
        assert (history[f"{split}_selection_loss"] > 0).all()
        assert (history[f"{split}_loss"] > history[f"{split}_selection_loss"]).all()
    row = page.split("<h2>Epochs</h2>")[1].split("</tr>")[2]
    shown = [float(text) for text in re.findall(r"<td[^>]*>([^<]*)</td>", row)]
    loss, selecting = history.trn_loss[1], history.trn_selection_loss[1]
    assert shown[:4] == pytest.approx([2, loss, loss - selecting, selecting], abs=1e-4)
    assert shown[-2:] == pytest.approx(spent.iloc[1, 1:].tolist(), abs=1e-3)


def test_the_run_of_an_earlier_version_is_reported_and_goes_on_with_its_columns(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"benchmark": "spair", "supervision": "weak"})
    figures = {"trn_loss": 2.0, "trn_pck": 40.0, "val_loss": 3.0, "val_pck": 30.0, "selection/00": 0.5}
    run.record(1, figures)
    run.record(2, {"trn_selection_loss": 0.1, **figures, "val_pck": 35.5})
    run.close()
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert lines[2] == "2,2.0,40.0,3.0,35.5,0.5"
    training_report.report_training(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "<b>35.50 %</b><small>mean over validation pairs, epoch 2 of 2: the model that is kept" in page
    assert "of matching" not in page
    assert " GiB" not in page


def test_no_epoch_no_report(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {"benchmark": "spair"})
    training_report.report_training(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()
