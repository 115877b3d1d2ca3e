"""Files of weights: sound ones are read without running code in them, all others are refused by their names."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dhpf.common.errors import UserError
from dhpf.weights import files
from tests.helpers.commands import TINY, refused
from tests.helpers.models import draw_learner


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


def cut_off(path: Path) -> None:
    torch.save(draw_learner("efficientnet_lite0"), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    learner = draw_learner("efficientnet_lite0")
    names = {name.replace(".", "_"): name for name in learner}
    return learner | {names.get(k, k): v for k, v in tensors.items()}


WITHOUT_TENSORS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "a web page": lambda path: path.write_text("<html>quota exceeded</html>"),
    "a folder": lambda path: path.mkdir(),
    "cut off": cut_off,
    "pickled code": lambda path: torch.save({"a": Code()}, path),
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps(Code())),
    "a list": lambda path: torch.save([torch.zeros(3)], path),
    "a vast tensor": lambda path: torch.save({"a": torch.zeros(1).expand(10**13)}, path),
    "not finite": lambda path: torch.save({"a": torch.full((16,), torch.nan)}, path),
}
OF_ANOTHER_NETWORK: dict[str, Callable[[Path], object]] = {
    "a network": lambda path: torch.save(torch.nn.Linear(2, 2).state_dict(), path),
    "another shape": lambda path: torch.save(changed(gumbel_ffns_0_3_weight=torch.zeros(3, 32, 1, 1)), path),
    "a tensor too many": lambda path: torch.save(changed(extra=torch.zeros(1)), path),
}


@pytest.mark.parametrize("kind", WITHOUT_TENSORS)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_holds_no_tensors_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    WITHOUT_TENSORS[kind](tmp_path / name)
    for read in (files.read_tensors, files.read_wrapped):
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["a folder", "pickled code", "not finite", *OF_ANOTHER_NETWORK])
def test_a_wrong_file_is_refused_by_the_programs(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (WITHOUT_TENSORS | OF_ANOTHER_NETWORK)[kind](tmp_path / "bad.pt")
    for option in ("--load", "--backbone-weights"):
        refused(tmp_path, f"test.py --benchmark synthetic {TINY} {option} bad.pt", "bad.pt")
    assert not (tmp_path / "executed").exists()


def test_the_state_of_a_run_is_no_model(tmp_path: Path) -> None:
    torch.save({"epoch": 1}, tmp_path / "state.pt")
    refused(tmp_path, f"test.py --benchmark synthetic {TINY} --load state.pt", "state.pt", "best_model.pt")
