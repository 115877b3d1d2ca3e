"""Where a program computes."""

import pytest
import torch

from dhpf.common.errors import UserError
from dhpf.common.processes import choose_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has two GPUs, and MPS."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_a_process_has_the_device_that_it_asks_for(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["cpu", "cuda:1", "cuda", "cuda:0", "mps", "cpu"]
    assert [choose_device(name) for name in names] == [torch.device(name) for name in names]
    assert choose_device("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")  # MPS is for who asks for it


@pytest.mark.parametrize("name", ["cuda:2", "tpu", "meta"])
def test_a_device_that_is_not_there_is_named(two_gpus: None, name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}"):
        choose_device(name)
