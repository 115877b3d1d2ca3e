"""The search for layers: sums of layers are what comparing them anew gives, and the beam finds what it should."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dhpf.common.errors import UserError
from dhpf.common.options import Layers, layer_set
from dhpf.matching import layer_subsets as subsets
from dhpf.matching.matcher import Matcher
from dhpf.model.ablation import Ablation, check_layers
from dhpf.model.dhpf import DHPF
from dhpf.model.layer_subsets import layer_sums
from dhpf.programs import searching
from dhpf.programs.searching import best, candidates
from tests.helpers import tiny
from tests.helpers.commands import run, succeed
from tests.model.test_model import Bank

SMALL = "--img-side 64 --workers 0 --device cpu --no-download --datapath ."
SEARCH = f"search.py --benchmark pfpascal {SMALL} --pairs 3 --beam 2"


@pytest.mark.parametrize("voting", ["hough", "none"])
@pytest.mark.parametrize("order", [[1, 3], [0], [4, 2], [2, 0, 4, 1], [4, 3, 2, 1, 0]])
def test_a_sum_of_layers_is_what_comparing_them_anew_gives(order: list[int], voting: str) -> None:
    """Two pairs, layers added in any order; sides with and without a layer; maps that start below the grid's side."""
    torch.manual_seed(1)
    bank = Bank([16, 16, 8, 8, 4], [16, 8, 24, 8, 32], [2] * 5, images=4)
    bank.maps = [m.double() for m in bank.maps]
    model = DHPF(bank, voting).double().eval()  # type: ignore[arg-type]
    model.ablate(Ablation(tuple(sorted(order)), raw=True))
    with torch.no_grad():
        src, trg = (model.encode(torch.tensor(images).view(-1, 1, 1, 1)) for images in ([0, 1], [2, 3]))
        anew = model.compare(src, trg)
        layers = layer_sums(src, trg, model.layer_of_channel)
        total = layers[order[0]]
        for layer in order[1:]:
            total = total + layers[layer]
        found = total.matches(voting)
        cells = torch.arange(256).expand(2, -1)
        torch.testing.assert_close(found.scores.rows(cells), anew.scores.rows(cells))
        torch.testing.assert_close(found.scores.column_max, anew.scores.column_max)
        assert torch.equal(found.selection, anew.selection.to(found.selection))
        points = torch.rand(2, 2, 30, dtype=torch.float64) * 64
        torch.testing.assert_close(found.transfer(points), anew.transfer(points))


def test_a_beam_adds_every_other_layer_to_the_best_and_nothing_twice() -> None:
    found = {(0,): 10.0, (1,): 30.0, (2,): 30.0, (3,): 20.0}
    assert list(candidates({}, 1, 2, 4)) == list(found)
    assert best(found, found) == [(1,), (2,), (3,), (0,)]  # of equal ones the first
    children = candidates(found, 2, 2, 4)
    assert children == {
        (0, 1): ((1,), 0),
        (1, 2): ((1,), 2),
        (1, 3): ((1,), 3),
        (0, 2): ((2,), 0),
        (2, 3): ((2,), 3),
    }
    found |= dict.fromkeys(children, 0.0) | {(2, 3): 30.0}
    assert set(candidates(found, 3, 1, 4)) == {(0, 2, 3), (1, 2, 3)}
    assert best(found, found)[:3] == [(1,), (2,), (2, 3)]  # of equal ones the smaller


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a benchmark and a finished search."""
    home = tmp_path_factory.mktemp("searched")
    tiny.make_pfpascal(home, pairs=4)
    succeed(home, f"{SEARCH} --max-layers 2 --logpath whole")
    return home


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_figures_are_those_of_the_test_program(searched: Path) -> None:
    result = read(searched / "logs" / "whole" / "layers.json")
    assert (result["backbone"], result["benchmark"], result["split"]) == (
        "efficientnet_lite0",
        "pfpascal",
        "val",
    )
    assert len(read(searched / "logs" / "whole" / "search.json")["pck"]) == result["subsets"] == 15 + 14 + 13
    sizes = [len(of["layers"]) for of in result["best_by_size"]]
    assert sizes == [1, 2]
    assert max(of["pck"] for of in result["best_by_size"]) == result["pck"]
    for number, of in enumerate(result["best_by_size"]):
        layers = (
            "@logs/whole/layers.json"
            if of["layers"] == result["layers"]
            else ",".join(map(str, of["layers"]))
        )
        # The search drew three of the four pairs; the test tells the PCK of each.
        test = f"test.py --benchmark pfpascal {SMALL} --split val --raw --layers {layers} --logpath test-{number}"
        succeed(searched, test)
        drawn = sorted(torch.randperm(4, generator=torch.Generator().manual_seed(0))[:3].tolist())
        assert of["pck"] == pytest.approx(by_pair(searched / "logs" / f"test-{number}")[drawn].mean(), abs=0)


def by_pair(folder: Path) -> Any:
    from dhpf.evaluation.figures import measure
    from dhpf.evaluation.predictions import read_predictions

    return measure(read_predictions(folder / "predictions.csv.gz"), [0.1])[0][1].to_numpy()


def test_a_search_that_was_killed_goes_on_to_the_same_end(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the second pair of the second size, with the state of before."""
    monkeypatch.setattr(searching, "OFTEN", -1.0)
    measured: list[tuple[int, int]] = []

    def until(stop: int | None) -> None:
        def shares(model: DHPF, codes: Any, part: Any, candidates: Mapping[Any, Any], alpha: float) -> Any:
            if len(measured) == stop:
                raise KeyboardInterrupt
            measured.append((len(candidates), int(part["index"])))
            return subsets.shares(model, codes, part, candidates, alpha)

        monkeypatch.setattr(searching, "shares", shares)

    until(4)
    with pytest.raises(KeyboardInterrupt):
        run(searched, f"{SEARCH} --max-layers 2 --logpath killed")
    until(None)
    succeed(searched, "search.py --resume logs/killed --workers 0 --device cpu")
    assert len(measured) == len(set(measured)) == 6  # each pair once a size
    for name in ("layers.json", "search.json"):
        whole, resumed = (read(searched / "logs" / run / name) for run in ("whole", "killed"))
        whole.pop("files", None), resumed.pop("files", None)
        assert resumed == whole
    lines = [(searched / "logs" / run / "log.txt").read_text().splitlines() for run in ("whole", "killed")]
    times = [
        [line.split(" s;")[0].rpartition(",")[0] for line in log if "best so far" in line] for log in lines
    ]
    assert times[0] == times[1]
    assert len(times[0]) == 2
    outcome = run(searched, "search.py --resume logs/killed --alpha 0.05")
    assert outcome.code == 2
    assert "another run with a different --alpha (it was 0.1)" in outcome.err
    (searched / "PF-PASCAL" / "val_pairs.csv").write_bytes(
        (searched / "PF-PASCAL" / "test_pairs.csv").read_bytes()
    )
    outcome = run(searched, "search.py --resume logs/whole")
    assert outcome.code == 2
    assert "the search began with other pairs" in outcome.err


def test_pairs_that_cannot_be_read_are_left_out_or_stop_it(tmp_path: Path) -> None:
    tiny.make_pfpascal(tmp_path, pairs=4)
    (tmp_path / "PF-PASCAL" / "JPEGImages" / "2008_000000_cat.jpg").write_bytes(b"no image")
    outcome = run(tmp_path, f"{SEARCH} --max-layers 1 --pairs 4 --logpath stopped")
    assert outcome.code == 2
    assert "--on-bad-pair skip" in outcome.err
    succeed(tmp_path, f"{SEARCH} --max-layers 1 --pairs 4 --logpath skipped --on-bad-pair skip")
    values = read(tmp_path / "logs" / "skipped" / "search.json")["pck"]["3"]
    assert 0 < values.count(None) < len(values) == 4
    assert "not readable" in (tmp_path / "logs" / "skipped" / "log.txt").read_text()


def layers_file(path: Path, **content: Any) -> str:
    path.write_text(json.dumps({"backbone": "efficientnet_lite0", "layers": [9, 3]} | content))
    return f"@{path}"


def test_layers_of_a_file_go_to_training_and_stay_with_its_checkpoint(tmp_path: Path) -> None:
    tiny.make_pfpascal(tmp_path, pairs=4)
    file = layers_file(tmp_path / "layers.json")
    train = f"train.py --benchmark pfpascal {SMALL} --bsz 4 --niter 1 --logpath fixed"
    succeed(tmp_path, f"{train} --layers {file}")
    assert "2.0 of 15 layers selected" in (tmp_path / "logs" / "fixed" / "log.txt").read_text()
    for name in ("best_model.pt", "best_model.safetensors"):
        matcher = Matcher.load(tmp_path / "logs" / "fixed" / name, img_side=64, device="cpu")
        assert matcher.model.ablation == Ablation((3, 9))
    test = f"test.py --benchmark pfpascal {SMALL} --load logs/fixed/best_model.pt"
    succeed(tmp_path, f"{test} --logpath as-trained")
    succeed(tmp_path, f"{test} --logpath other --layers 3")
    found = {name: read(tmp_path / "logs" / name / "results.json") for name in ("as-trained", "other")}
    assert [of["options"]["ablation"] for of in found.values()] == ["fixed layers 3,9", "fixed layers 3"]
    (tmp_path / "layers.json").unlink()  # it is not needed any more
    succeed(tmp_path, "train.py --resume logs/fixed --niter 2 --device cpu --workers 0")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"backbone": "resnet101"}, "found on resnet101, the backbone is efficientnet_lite0"),
        (
            {"backbone_layers": "0,3,9"},
            "found on efficientnet_lite0 0,3,9, the backbone is efficientnet_lite0",
        ),
        ({"layers": [3, 15]}, "--layers 15: the backbone's hyperpixel layers are 0 to 14"),
        ({"layers": "all"}, "not a file of search.py"),
        ({"layers": [-1]}, "not a file of search.py"),
    ],
)
@pytest.mark.parametrize("program", ["test", "train"])
def test_layers_of_another_backbone_are_refused(
    tmp_path: Path, program: str, content: dict[str, Any], reason: str
) -> None:
    file = layers_file(tmp_path / "layers.json", **content)
    raw = "--raw" * (program == "test")
    outcome = run(tmp_path, f"{program}.py --benchmark synthetic {SMALL} {raw} --layers {file}")
    assert outcome.code == 2
    assert reason in outcome.err
    assert not (tmp_path / "logs").exists()


def test_layers_are_of_the_blocks_that_were_searched(tmp_path: Path) -> None:
    layers = layer_set(layers_file(tmp_path / "layers.json", layers=[2, 0], backbone_layers="0,3,9"))
    assert layers == Layers((0, 2))
    check_layers(
        layers, 3, lambda: {"backbone": "efficientnet_lite0", "backbone_layers": "0,3,9", "width": "64"}
    )
    with pytest.raises(UserError, match=r"0,3,9, the backbone is efficientnet_lite0 0,3,8$"):
        check_layers(layers, 3, lambda: {"backbone": "efficientnet_lite0", "backbone_layers": "0,3,8"})


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    tiny.make_caltech(tmp_path)
    for arguments, reason in {
        "--benchmark caltech --split test": "--benchmark caltech: it has no PCK to search by",
        "--benchmark synthetic --split nowhere": "has no split 'nowhere'",
        "--resume logs/nowhere": "not the folder of a run",
    }.items():
        outcome = run(tmp_path, f"search.py {arguments} {SMALL}")
        assert outcome.code == 2
        assert reason in outcome.err
