"""The search for layers: its figures are those of test.py, it goes on where it stopped, and its layers are used."""

import csv
import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from dhpf.evaluation.figures import measure
from dhpf.evaluation.predictions import read_predictions
from tests.helpers import tiny
from tests.helpers.commands import refused, run, succeed

SMALL = "--img-side 64 --workers 0 --device cpu --no-download --datapath ."
SEARCH = f"search.py --benchmark pfpascal {SMALL} --pairs 3 --beam 2"
DRAWN = sorted(
    torch.randperm(4, generator=torch.Generator().manual_seed(0))[:3].tolist()
)  # three of four pairs


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tiny.make_pfpascal(tmp_path, pairs=4)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_figures_are_those_of_the_test_program(home: Path) -> None:
    succeed(home, f"{SEARCH} --max-layers 2 --logpath run")
    result = read(home / "logs" / "run" / "layers.json")
    origin = "efficientnet_lite0", "pfpascal", "val"
    assert tuple(result[key] for key in ("backbone", "benchmark", "split")) == origin
    assert len(read(home / "logs" / "run" / "search.json")["pck"]) == result["subsets"] == 15 + 14 + 13
    assert [len(of["layers"]) for of in result["best_by_size"]] == [1, 2]
    assert max(of["pck"] for of in result["best_by_size"]) == result["pck"] == result["searched"]["pck"]
    (held_out,) = {*range(4)} - {*DRAWN}
    every = {"layers": list(range(15)), "pck": result["searched"]["all_layers"]}
    for number, of in enumerate([*result["best_by_size"], every]):
        best_of_all = of["layers"] == result["layers"]
        layers = "@logs/run/layers.json" if best_of_all else ",".join(map(str, of["layers"]))
        test = f"test.py --benchmark pfpascal {SMALL} --split val --raw --layers {layers} --logpath test-{number}"
        out = succeed(home, test).out
        table = read_predictions(home / "logs" / f"test-{number}" / "predictions.csv.gz")
        by_pair = measure(table, [0.1])[0][1].to_numpy()
        assert of["pck"] == pytest.approx(by_pair[DRAWN].mean(), abs=0)
        assert ("chosen on this list" in out) == best_of_all
        if best_of_all or of == every:
            assert result["held_out"]["pck" if best_of_all else "all_layers"] == by_pair[held_out]


def test_pairs_that_are_none_or_not_enough_are_said(home: Path) -> None:
    refused(home, f"search.py --benchmark pfwillow {SMALL}", "--split test", "pfwillow")
    log = succeed(home, f"{SEARCH} --pairs 4 --max-layers 1 --logpath all").out
    assert "--pairs" in log
    assert read(home / "logs" / "all" / "layers.json")["held_out"] == {}


def test_a_search_that_was_stopped_goes_on_to_the_same_end(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a size by a damaged image, where every pair was saved, and after a size."""
    succeed(home, f"{SEARCH} --max-layers 2 --logpath whole")
    with (home / "PF-PASCAL" / "val_pairs.csv").open() as file:
        pairs = [(row["source_image"], row["target_image"]) for row in csv.DictReader(file)]
    (damaged, *_) = set(pairs[DRAWN[2]]) - {*pairs[DRAWN[0]], *pairs[DRAWN[1]]}
    image = home / "PF-PASCAL" / "JPEGImages" / damaged
    sound = image.read_bytes()
    image.write_bytes(b"no image")
    with monkeypatch.context() as patch:
        patch.setattr("time.monotonic", count(step=20).__next__)  # a state is saved every ten seconds
        assert run(home, f"{SEARCH} --max-layers 1 --logpath stopped").code == 2
    pck = read(home / "logs" / "stopped" / "search.json")["pck"]
    assert {len(values) for values in pck.values()} == {2}
    image.write_bytes(sound)
    resume = "search.py --resume logs/stopped --workers 0 --device cpu"
    succeed(home, resume)
    succeed(home, f"{resume} --max-layers 2")
    assert read(home / "logs" / "stopped" / "layers.json") == read(home / "logs" / "whole" / "layers.json")
    states = [read(home / "logs" / run / "search.json") for run in ("stopped", "whole")]
    assert states[0]["pck"] == states[1]["pck"]
    refused(home, f"{resume} --alpha 0.05", "--alpha")
    (home / "PF-PASCAL" / "val_pairs.csv").write_bytes((home / "PF-PASCAL" / "test_pairs.csv").read_bytes())
    refused(home, resume, "logs/stopped", "pairs")


def layers_file(path: Path, **content: Any) -> str:
    path.write_text(json.dumps({"backbone": "efficientnet_lite0", "layers": [9, 3]} | content))
    return f"@{path}"


def test_layers_of_a_file_go_to_training_and_stay_with_its_checkpoint(home: Path) -> None:
    file = layers_file(home / "layers.json")
    train = f"train.py --benchmark pfpascal {SMALL} --bsz 4 --niter 1 --logpath fixed"
    succeed(home, f"{train} --layers {file}")
    assert "2.0 of 15 layers selected" in (home / "logs" / "fixed" / "log.txt").read_text()
    (home / "layers.json").unlink()  # it is not needed any more
    succeed(home, "train.py --resume logs/fixed --niter 2 --device cpu --workers 0")
    names = {"best_model.pt": "3,9", "best_model.safetensors": "3,9", "best_model.pt --layers 3": "3"}
    for number, (name, layers) in enumerate(names.items()):
        test = f"test.py --benchmark pfpascal {SMALL} --load logs/fixed/{name} --logpath {number}"
        succeed(home, test)
        ablation = read(home / "logs" / str(number) / "results.json")["options"]["ablation"]
        assert ablation.endswith(f" {layers}")


def test_layers_of_another_backbone_are_refused(tmp_path: Path) -> None:
    train = f"train.py --benchmark synthetic {SMALL} --layers @layers.json"
    layers_file(tmp_path / "layers.json", backbone="resnet101")
    refused(tmp_path, train, "resnet101", "efficientnet_lite0")
    layers_file(tmp_path / "layers.json", backbone_layers="0,3,9", layers=[0, 2])
    refused(tmp_path, f"{train} --backbone-layers 0,3,8", "0,3,9", "0,3,8")
    layers_file(tmp_path / "layers.json", layers=[3, 15])
    refused(tmp_path, train, "--layers 15")
