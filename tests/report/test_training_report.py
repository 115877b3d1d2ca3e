"""The report of a training: its figures are those of the run's files."""

import re
from pathlib import Path

import pandas as pd
import pytest

from dhpf.common.run import Run
from dhpf.report.training_report import report_training
from tests.helpers import tiny
from tests.helpers.commands import TINY, succeed


def test_training_ends_with_a_report(tmp_path: Path) -> None:
    tiny.make_pfpascal(tmp_path, pairs=4)
    where = f"--benchmark pfpascal --datapath {tmp_path} --logpath {tmp_path}/run"
    succeed(tmp_path, f"train.py {where} {TINY} --bsz 2 --niter 2", reports=True)
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    spent = pd.read_csv(tmp_path / "run" / "time_and_memory.csv")
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "<dt>lr</dt><dd>0.03</dd>" in page
    for tile in (f"{history.val_pck.max():.2f} %", f"{spent.memory.max():.2f} GiB"):
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
    assert " GiB" not in page
