"""benchmarks/compare.py on stand-ins of two checkouts, whose speed.py prints given times at once."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import compare

SPEED = """
import json, os, sys
from pathlib import Path

log = Path(os.environ["LOG"])
with log.open("a") as file:
    print(json.dumps([Path.cwd().name, *sys.argv[1:]]), file=file)
if "--help" in sys.argv:
    print("--modes")
elif "--only" in sys.argv:
    print(0.5, MEMORY)
else:
    run = sum("--json" in line for line in log.open())  # each is slower than the one before
    times = {"bare backbone": 10, "evaluation, batch 1": 20, "weak training, batch 4": 90 * SLOWER}
    modes = {name: {"ms per pair": run * time, "ratio": time / 10} for name, time in times.items()}
    about = dict.fromkeys(("backbone", "device", "img_side", "precision", "torch"), "given")
    print(json.dumps(about | {"modes": modes}))
"""
WEAK = "weak training, batch 4"


def checkout(folder: Path, slower: float, memory: float) -> Path:
    (folder / "benchmarks").mkdir(parents=True)
    code = SPEED.replace("SLOWER", str(slower)).replace("MEMORY", str(memory))
    (folder / "benchmarks" / "speed.py").write_text(code)
    return folder


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The other checkout. This one is a stand-in, too, half as slow again in weak training."""
    monkeypatch.setattr(compare, "THIS", checkout(tmp_path / "this", 1.5, 2.5))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return checkout(tmp_path / "other", 1, 2)


def started(other: Path) -> list[list[str]]:
    """The folder and the arguments of every speed.py."""
    return [json.loads(line) for line in (other.parent / "log").read_text().splitlines()]


def test_figures_of_both_and_quotients_of_neighbours(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.main([str(other), "--rounds", "3", "--memory", "--backbone", "resnet50"])
    rows = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()[3:]]
    # The times' quotients are 2/1, 3/4 and 6/5, as every run is slower than the one before; the ratios' are not.
    same, drift = "1.000 (1.00 to 1.00)", "1.200 (0.97 to 1.60)"
    weak = "1.500 (1.50 to 1.50)", "1.800 (1.46 to 2.40)"
    assert rows == [
        ["bare backbone", "1.00", "1.00", "40.0", "30.0", same, drift, "2.00", "2.50"],
        ["evaluation, batch 1", "2.00", "2.00", "80.0", "60.0", same, drift, "2.00", "2.50"],
        [WEAK, "9.00", "13.50", "360.0", "405.0", *weak, "2.00", "2.50"],
    ]
    runs = started(other)
    assert [run[0] for run in runs[:6]] == ["other", "this", "this", "other", "other", "this"]
    assert all({"--backbone=resnet50", "--repeats=2", "--no-memory", "--json"} < set(run) for run in runs[:6])
    assert [run[-2:] for run in runs[-2:]] == [["--only", WEAK]] * 2
