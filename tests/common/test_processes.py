"""Where a program computes."""

import os
import subprocess
import sys

import pytest
import torch

from dhpf.common.errors import UserError
from dhpf.common.processes import choose_device, say_what_mps_lacks, start
from dhpf.weights.checkpoint import build_model
from tests.helpers.places import ROOT


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
        "tpu": "auto, cpu, cuda, cuda:N or mps",
        "meta": "--device cpu",
    }.items():
        with pytest.raises(UserError, match=rf"--device {name}: .*{message}"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="--device cuda: this machine's PyTorch has no such device"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("asked", "words"), [("1", "is computed on the CPU"), ("0", "import dhpf before torch")]
)
def test_what_mps_lacks_is_said_once(
    asked: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="--device mps: this machine's PyTorch has no such device"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", asked)
    say_what_mps_lacks.cache_clear()
    assert [choose_device("mps") for _ in range(2)] == [torch.device("mps")] * 2
    said = capsys.readouterr().err
    assert said.count("mps: what PyTorch's MPS lacks") == 1
    assert words in said
    assert choose_device("auto") == torch.device("cpu")  # MPS is for who asks for it


def test_dhpf_asks_for_the_fallback_of_mps_before_torch_is_there() -> None:
    script = "import dhpf, os, sys; print(os.environ['PYTORCH_ENABLE_MPS_FALLBACK'], 'torch' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTORCH_ENABLE_MPS_FALLBACK"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "1 False\n", done


def test_two_models_on_two_devices_do_not_disturb_each_other() -> None:
    """The meta device stands for another: it has shapes and no values."""
    torch.manual_seed(0)
    here, there = (build_model("efficientnet_lite0", "random").eval() for _ in range(2))
    there.to("meta")
    images, points = torch.randn(2, 3, 64, 64), torch.rand(1, 2, 5) * 64
    found = []
    for _ in range(2):
        with torch.no_grad():
            found.append(here(images[:1], images[1:]).transfer(points))
            moved = there(images[:1].to("meta"), images[1:].to("meta")).transfer(points.to("meta"))
        assert (moved.shape, moved.device) == (points.shape, torch.device("meta"))
    assert torch.equal(*found)
