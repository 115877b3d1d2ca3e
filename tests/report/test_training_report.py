"""The report of a training: its figures are those of the run's files."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dhpf.common.run import Run
from dhpf.report import pictures
from dhpf.report.training_report import report_training
from tests.helpers import tiny
from tests.helpers.commands import TINY, succeed


def test_training_ends_with_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.make_pfpascal(tmp_path, pairs=4)
    drawn: list[Any] = []
    curves = pictures.training_curves
    monkeypatch.setattr(pictures, "training_curves", lambda data: drawn.append(curves(data)) or drawn[0])
    where = f"--benchmark pfpascal --datapath {tmp_path} --logpath {tmp_path}/run"
    succeed(tmp_path, f"train.py {where} {TINY} --bsz 2 --niter 2", reports=True)
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    spent = pd.read_csv(tmp_path / "run" / "time_and_memory.csv")
    rates = history.filter(regex="^selection/")
    loss, *_, layers, _ = drawn[0].axes
    assert loss.lines[0].get_xdata().tolist() == [1, 2]
    assert layers.images[0].get_array()[:, 1].tolist() == pytest.approx(rates.iloc[-1].tolist())
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "Training of DHPF on pfpascal, strong supervision" in page
    assert "<dt>lr</dt><dd>0.03</dd>" in page
    for tile in (
        f"{history.val_pck.max():.2f} %", f"{spent.memory.max():.2f} GiB",
        f"{rates.iloc[-1].sum():.1f} of {rates.shape[1]}",
    ):  # fmt: skip
        assert f"<b>{tile}</b>" in page
    row = page.split("<h2>Epochs</h2>")[1].split("</tr>")[2]
    shown = [float(text) for text in re.findall(r"<td[^>]*>([^<]*)</td>", row)]
    total, selection = history.trn_loss[1], history.trn_selection_loss[1]
    assert shown[:4] == pytest.approx([2, total, total - selection, selection], abs=1e-4)
    assert shown[-2:] == pytest.approx(spent.iloc[1, 1:].tolist(), abs=1e-3)


def test_the_run_of_an_earlier_version_is_reported_and_goes_on_with_its_columns(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {"benchmark": "spair", "supervision": "weak"})
    figures = {"trn_loss": 2.0, "trn_pck": 40.0, "val_loss": 3.0, "val_pck": 30.0, "selection/00": 0.5}
    run.record(1, figures)
    run.record(2, {"trn_selection_loss": 0.1, **figures, "val_pck": 35.5})
    run.close()
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert lines[2] == "2,2.0,40.0,3.0,35.5,0.5"
    report_training(tmp_path / "run", {"benchmark": "pfpascal", "supervision": "weak"})
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<b>35.50 %</b><small>mean over validation pairs, epoch 2 of 2" in page
    assert "of matching" not in page
    assert " GiB" not in page
    assert (
        page.index("<h2>Options")
        < page.index("<dt>benchmark")
        < page.index("<summary>Options")
        < page.index("<dt>supervision")
    )
