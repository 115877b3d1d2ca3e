"""Options: a wrong one is refused by its name, and help has them all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dhpf.data import BENCHMARKS
from tests.helpers.commands import TINY, refused, run, succeed
from tests.helpers.places import ROOT

# What is wrong, and what the message names, if that is not the option.
TRAIN_AND_TEST = {
    "--benchmark pfpascla": "pfpascal",  # the closest name
    "--backbone resnet-50": "resnet50",
    "--backbone-weights nowhere.pth": "nowhere.pth",
    "--thres box": "",
    "--img-side 66": "",
    "--device tpu": "",
    "--device cuda": "",
    "--seed -1": "",
    "--workers 1.5": "",
    "--alpha nan": "",
    "--alpha 10": "",
    "--logpath a/../../b": "",
    "--voting borda": "",
    "--bs 4": "",  # no abbreviations
    "--layers 1,,2": "",
    "--layers 15": "",
    "--layers @nowhere.json": "nowhere.json",
}
TRAIN = {
    "--supervision medium": "",
    "--lr inf": "",
    "--bsz 1": "",
    "--niter 0": "",
    "--selection 1.1": "",
    "--resume nowhere": "nowhere",
    "--load model.pt": "",  # an option of test.py
}
TEST = {
    "--load nowhere.pt": "nowhere.pt",
    "--load dhpf:spair-strong-resnet50": "spair-strong-resnet101",
    "--from-predictions nowhere.csv.gz": "nowhere.csv.gz",
    "--alpha": "",
    "--raw --soft-gates": "--soft-gates",
    "--layers 1 --soft-gates": "--soft-gates",
    "--compile": "",  # on a CPU
}
OTHERS = {
    "search.py --benchmark synthetic --split nowhere": "nowhere",
    "search.py --resume logs/nowhere": "logs/nowhere",
    "compare.py nowhere.csv nowhere.csv": "nowhere.csv",
    "reproduce.py --table 4 --weights weights": "--table",
    "reproduce.py --table 1": "--weights",
    "reproduce.py --table 2 --weights nowhere": "nowhere",
}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        *((f"train.py {TINY} {a}", n) for a, n in (TRAIN_AND_TEST | TRAIN).items()),
        *((f"test.py {TINY} {a}", n) for a, n in (TRAIN_AND_TEST | TEST).items()),
        *OTHERS.items(),
    ],
)
def test_a_wrong_option_is_refused_by_name(tmp_path: Path, arguments: str, named: str) -> None:
    last_option = "--" + arguments.rpartition("--")[2].partition(" ")[0]
    refused(tmp_path, arguments, named or last_option)


@pytest.mark.parametrize("program", ["train.py", "test.py"])
@pytest.mark.parametrize("benchmark", ["pfpascal", "spair"])
def test_missing_data_are_named(tmp_path: Path, program: str, benchmark: str) -> None:
    arguments = f"{program} --benchmark {benchmark} --datapath nowhere {TINY}"
    refused(tmp_path, arguments, BENCHMARKS[benchmark].folder, "--no-download")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK"),
    ],
)
def test_leftovers_of_a_launcher_are_refused_by_name(
    tmp_path: Path, environment: dict[str, str], named: str
) -> None:
    for program in ("train.py", "test.py"):
        outcome = run(tmp_path, f"{program} --benchmark synthetic {TINY}", environment)
        assert (outcome.code, named in outcome.err) == (2, True), outcome
    # What is one process in any case ignores them.
    assert run(tmp_path, "compare.py nowhere", environment).code == 2
    assert "nowhere" in run(tmp_path, "compare.py nowhere", environment).err


def test_a_script_finds_its_packages_where_python_leaves_its_folder_out(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "compare.py"), "--version"]
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stderr) == (0, "")


COMMON = "--benchmark --backbone --thres --alpha --datapath --logpath --bsz --device --seed --workers"
OPTIONS = {
    "train": f"{COMMON} --supervision --lr --niter --selection --resume --save-every",
    "test": f"{COMMON} --load --from-predictions --layers --raw --resume",
    "match": "--points --points-file --grid --load --output --explore --pair",
    "search": "--benchmark --beam --max-layers --pairs --resume",
    "compare": "--alpha --format --out",
    "reproduce": "--table --weights --out --backbones",
}


@pytest.mark.parametrize("program", OPTIONS)
def test_help_has_the_options_and_examples(tmp_path: Path, program: str) -> None:
    outcome = succeed(tmp_path, f"{program}.py --help")
    assert [name for name in OPTIONS[program].split() if f"{name} " not in outcome.out] == []
    assert "None" not in outcome.out
    assert f"python {program}.py " in outcome.out.partition("examples:")[2]
    assert outcome.err == ""
