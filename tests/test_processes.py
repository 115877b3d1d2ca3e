"""Where a program computes."""

import pytest
import torch

from dhpf.common.errors import UserError
from dhpf.common.processes import choose_device, start


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_each_model_of_a_process_has_the_device_that_it_asked_for(two_gpus: None) -> None:
    names = ["cpu", "cuda:1", "cuda", "cuda:0", "cpu"]
    assert [choose_device(name) for name in names] == [torch.device(name) for name in names]
    assert [start(name)[1] for name in ("cpu", "cuda:1", "cpu")] == [
        torch.device(name) for name in ("cpu", "cuda:1", "cpu")
    ]
    assert choose_device("auto") == torch.device("cuda")


def test_a_device_that_is_not_there_is_named(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, message in {
        "cuda:2": "0 to 1",
        "tpu": "auto, cpu, cuda or cuda:N",
        "meta": "--device cpu",
    }.items():
        with pytest.raises(UserError, match=rf"--device {name}: .*{message}"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="--device cuda: this machine's PyTorch has no such device"):
        choose_device("cuda")
