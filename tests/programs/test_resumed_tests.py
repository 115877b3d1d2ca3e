"""A test that was stopped goes on where it was, to the same results."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from dhpf.common.program import Stopped
from dhpf.common.run import Run
from dhpf.evaluation.partial_predictions import PART
from dhpf.programs import testing
from tests.helpers.commands import TINY, run, succeed

OPTIONS = f"--benchmark pfpascal {TINY} --bsz 2"


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Has the next tests end with an error after a number of pairs."""
    predict = testing.predict

    def after(pairs: int, error: BaseException) -> None:
        def counted(*arguments: Any) -> Any:
            *most, advance, keep = arguments
            left = [pairs]

            def count(number: int) -> None:
                left[0] -= number
                if left[0] <= 0:
                    raise error
                advance(number)

            return predict(*most, count, keep)

        monkeypatch.setattr(testing, "predict", counted if pairs else predict)

    return after


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("whole")
    succeed(home, f"test.py {OPTIONS} --datapath {data} --logpath run")
    return home / "logs" / "run"


def test_a_stopped_test_goes_on_to_the_same_results(
    data: Path, whole: Path, tmp_path: Path, stopping: Callable[[int, BaseException], None]
) -> None:
    folder = tmp_path / "logs" / "run"
    stopping(4, Stopped(SIGTERM))
    outcome = run(tmp_path, f"test.py {OPTIONS} --datapath {data} --logpath run")
    assert outcome.code == 143
    last = "stopped by SIGTERM: continue with --resume logs/run"
    assert outcome.out.splitlines()[-1] == (folder / "log.txt").read_text().splitlines()[-1] == last
    part = folder / f"{PART}0"
    part.write_text(part.read_text()[:-40])  # and killed while it wrote
    stopping(2, OSError(28, "No space left on device", "x"))
    outcome = run(tmp_path, "test.py --resume logs/run")
    assert outcome.code == 2
    assert "resumed with 3 of 8 pairs" in outcome.out
    stopping(0, Stopped(SIGTERM))
    assert "resumed with 5 of 8 pairs" in succeed(tmp_path, "test.py --resume logs/run --workers 1").out
    for name in ("results.json", "predictions.csv.gz"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert not list(folder.glob(f"{PART}*"))
    outcome = run(tmp_path, "test.py --resume logs/run")
    assert (outcome.code, "this test is finished" in outcome.err) == (2, True)


def test_a_test_goes_on_with_its_own_pairs_and_options_alone(
    data: Path, tmp_path: Path, stopping: Callable[[int, BaseException], None]
) -> None:
    stopping(4, Stopped(SIGTERM))
    assert run(tmp_path, f"test.py {OPTIONS} --datapath {data} --logpath run").code == 143
    stopping(0, Stopped(SIGTERM))
    outcome = run(tmp_path, "test.py --resume logs/run --thres bbox")
    assert (outcome.code, "--thres (it was auto)" in outcome.err) == (2, True)
    part = tmp_path / "logs" / "run" / f"{PART}0"
    part.write_text(re.sub('"pairs": "[0-9a-f]+"', '"pairs": "other"', part.read_text()))
    outcome = run(tmp_path, "test.py --resume logs/run")
    assert (outcome.code, "logs/run: the test began with other pairs" in outcome.err) == (2, True)


def test_a_run_folder_is_overwritten_where_that_is_asked(data: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("no run")
    command = f"test.py {OPTIONS} --datapath {data} --logpath run"
    assert "go on with --resume logs/run" in run(tmp_path, command).err
    outcome = run(tmp_path, f"{command} --overwrite")
    assert (outcome.code, "is not the folder of a run" in outcome.err) == (2, True)
    assert (folder / "mine.txt").exists()
    (folder / "options.json").write_text("{}")
    other = Run(folder)
    outcome = run(tmp_path, f"{command} --overwrite")
    assert (outcome.code, "another process" in outcome.err) == (2, True)
    other.close()
    succeed(tmp_path, f"{command} --overwrite")
    assert json.loads((folder / "results.json").read_text()) == json.loads(
        (whole / "results.json").read_text()
    )
    assert not (folder / "mine.txt").exists()
