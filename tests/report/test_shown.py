"""What a run shows while it goes on: TensorBoard's events, progress, the console; and what it calls undefined."""

import io
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dhpf.common import run as run_files
from dhpf.common.run import Run, progress
from dhpf.training.examples import CORRECT, INCORRECT, example
from tests.helpers import tiny
from tests.helpers.commands import TINY, run, succeed

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs of four steps, stopped and resumed between them."""
    root = tmp_path_factory.mktemp("shown")
    tiny.make_pfpascal(root)
    options = f"--benchmark pfpascal --datapath {root} {TINY} --bsz 2 --lr 0.1"
    succeed(root, f"train.py {options} --niter 1 --logpath run")
    succeed(root, "train.py --resume logs/run --niter 2")
    return root / "logs" / "run"


def test_the_events_are_what_tensorboard_reads(trained: Path) -> None:
    events = event_accumulator.EventAccumulator(str(trained), {event_accumulator.IMAGES: 0}).Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for name in ("matching_loss", "selection_loss", "layers_selected", "learning_rate"):
        assert [step for step, _ in scalars[f"step/{name}"]] == list(range(1, 9)), name
    assert {value for _, value in scalars["step/learning_rate"]} == {np.float32(0.1)}
    history = np.genfromtxt(trained / "history.csv", delimiter=",", names=True)
    assert [step for step, _ in scalars["loss/trn_loss"]] == [1, 2]
    both = [scalars[f"step/{name}_loss"][4:] for name in ("matching", "selection")]
    mean = np.mean([a + b for (_, a), (_, b) in zip(*both, strict=True)])
    assert mean == pytest.approx(history["trn_loss"][1], rel=1e-5)
    assert 0 < scalars["step/layers_selected"][0][1] <= 15
    by_category = [scalars[f"val_pck/{name}"] for name in ("cat", "dog")]
    for epoch in range(2):
        assert np.mean([values[epoch][1] for values in by_category]) == pytest.approx(
            history["val_pck"][epoch]
        )

    def picture(tag: str, epoch: int) -> Image.Image:
        assert [e.step for e in events.Images(tag)] == [1, 2]
        return Image.open(io.BytesIO(events.Images(tag)[epoch].encoded_image_string))

    heights = [picture("selection/all", epoch).height for epoch in range(2)]
    assert heights[1] > heights[0]  # a row for each epoch
    assert picture("examples/3", 1).size == (128, 64)
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"pfpascal" in plugin
    assert b"learning" not in plugin
    assert scalars["final/val_pck"] == [(0, pytest.approx(max(history["val_pck"])))]


def test_an_example_shows_images_predictions_and_truth() -> None:
    images = {"src_img": torch.zeros(1, 3, 64, 64), "trg_img": torch.ones(1, 3, 64, 64)}
    points = torch.tensor([[[10.0, 20, 30], [12, 40, 50]]])
    batch = {
        **images,
        "src_kps": points,
        "trg_kps": points,
        "n_pts": torch.tensor([3]),
        "pckthres": torch.tensor([64.0]),
    }
    found = points[0] + torch.tensor([[0, 20, math.nan], [0, 0, 0]])
    drawn = np.asarray(example(batch, 0, found, 0.1))
    assert (drawn[0, 0] < drawn[0, 127]).all()
    lines = {colour: (drawn == colour).all(-1).sum() for colour in (CORRECT, INCORRECT)}
    assert all(count > 50 for count in lines.values())
    assert (drawn == 255).all(-1).sum() > 30


def test_without_key_points_nothing_is_the_best(tmp_path: Path) -> None:
    """It was called 0.00 % and the best; the last epoch's model is kept."""
    tiny.make_spair(tmp_path)
    for path in (tmp_path / "SPair-71k" / "PairAnnotation" / "val").iterdir():
        content = json.loads(path.read_text()) | {"src_kps": [], "trg_kps": []}
        path.write_text(json.dumps(content))
    options = f"--benchmark spair --datapath {tmp_path} {TINY} --supervision weak --niter 2 --logpath run"
    out = succeed(tmp_path, f"train.py {options}").out
    assert out.count("PCK undefined,") == 2
    assert "(best)" not in out
    assert out.splitlines()[-1] == "no PCK: the last epoch's model: logs/run/best_model.pt"
    folder = tmp_path / "logs" / "run"
    state = torch.load(folder / "state.pt", weights_only=True)["learner"]
    best = torch.load(folder / "best_model.pt", weights_only=True)
    assert all(torch.equal(best[name], state[name]) for name in state)


def test_a_threshold_of_zero_is_no_figure(tmp_path: Path) -> None:
    """One key-point has no extent: it was 0.00 % at every alpha."""
    tiny.make_spair(tmp_path)
    for split in ("val", "test"):
        path = min((tmp_path / "SPair-71k" / "PairAnnotation" / split).iterdir())
        content = json.loads(path.read_text())
        content |= {end: content[end][:1] for end in ("src_kps", "trg_kps")}
        path.write_text(json.dumps(content))
    options = f"--benchmark spair --datapath {tmp_path} {TINY} --thres bbox-kp --alpha 1"
    out = succeed(tmp_path, f"train.py {options} --supervision weak --niter 1 --logpath trained").out
    assert "epoch 1: 1 validation pairs are in no PCK" in out
    out = succeed(tmp_path, f"test.py {options} --logpath run").out
    figures = json.loads((tmp_path / "logs" / "run" / "results.json").read_text())["figures"]
    assert figures["n_pairs"] == 8
    assert [figure["n_pairs"] for figure in figures["totals"] if figure["average"] == "pairs"] == [7, 7]
    (line,) = [line for line in out.splitlines() if line.startswith("threshold: ")]
    assert line.startswith("threshold: zero in 1 pairs, which are in no PCK: JPEGImages/cat/")


def test_runs_of_one_second_have_names_of_their_own(tmp_path: Path) -> None:
    folders = [Run.create(tmp_path / "run", {}, numbered=True).folder for _ in range(3)]
    assert [folder.name for folder in folders] == ["run", "run-2", "run-3"]


def test_quiet_leaves_the_console_alone(data: Path, tmp_path: Path) -> None:
    options = f"--benchmark pfpascal --datapath {data} {TINY} --quiet --logpath run"
    assert (outcome := run(tmp_path, f"test.py {options}")).code == 0
    assert (outcome.out, outcome.err) == ("", "")
    assert "PCK@0.1" in (tmp_path / "logs" / "run" / "log.txt").read_text()


def test_without_a_terminal_progress_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    now = [0.0]
    monkeypatch.setattr(run_files.time, "monotonic", lambda: now[0])
    with progress("testing", 100) as advance:
        for _ in range(10):
            now[0] += 25
            advance(4, loss=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "testing: 12/100 pairs, loss 0.5, 0.2 pairs/s, 550 s left"
    assert len(lines) == 3


def test_on_a_terminal_a_bar_tells_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    with progress("testing", 100) as advance:
        time.sleep(0.15)
        advance(4, loss=0.5)
        time.sleep(0.15)
        advance(4)
    assert re.search(r"8/100 \[\d\d:\d\d<\d\d:\d\d, +\d+\.\d+pair/s\]", terminal.getvalue())
