"""What a run shows while it goes on: TensorBoard's events, progress, the console; and what it calls undefined."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
    by_category = [[value for _, value in scalars[f"val_pck/{name}"]] for name in ("cat", "dog")]
    assert np.mean(by_category, 0) == pytest.approx(history["val_pck"])

    def picture(tag: str, epoch: int) -> Image.Image:
        assert [e.step for e in events.Images(tag)] == [1, 2]
        return Image.open(io.BytesIO(events.Images(tag)[epoch].encoded_image_string))

    heights = [picture("selection/all", epoch).height for epoch in range(2)]
    assert heights[1] > heights[0]  # a row for each epoch
    assert picture("examples/3", 1).size == (128, 64)
    assert scalars["final/val_pck"] == [(0, pytest.approx(max(history["val_pck"])))]


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


def test_quiet_leaves_the_console_alone(data: Path, tmp_path: Path) -> None:
    options = f"--benchmark pfpascal --datapath {data} {TINY} --quiet --logpath run"
    assert (outcome := run(tmp_path, f"test.py {options}")).code == 0
    assert (outcome.out, outcome.err) == ("", "")
    assert "PCK@0.1" in (tmp_path / "logs" / "run" / "log.txt").read_text()
