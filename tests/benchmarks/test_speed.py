"""What speed on a GPU rests on: few calls, which make one graph; and that a GPU computes the same."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from dhpf.common.processes import choose_device
from dhpf.model.compiled import CompiledDHPF
from dhpf.model.dhpf import DHPF
from dhpf.training import SUPERVISIONS
from dhpf.training.supervision import gate_noise, to_device
from tests.helpers.models import build

# Calls


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < (2, 14), reason="older ones were seen not to compile all of it")
@pytest.mark.parametrize("name", ["resnet50", "timm:resnet10t"])
def test_a_compiled_model_finds_the_same_and_has_no_break(name: str) -> None:
    """Compiled by what only traces; a test fails where a graph would break."""
    torch.manual_seed(0)
    model = build(name).eval()
    images, points = torch.randn(4, 3, 64, 64), 64 * torch.rand(2, 2, 5)
    said: list[str] = []
    with torch.no_grad():
        code = model.encode(images)
        expected = model.compare(code[:2], code[2:]).transfer(points)
        compiled = CompiledDHPF(model, 64, said.append, backend="eager")
        graph = compiled.encode(images)
        pairs = [compiled.compare(graph[k : k + 1], graph[k + 2 : k + 3]) for k in range(2)]
        found = [pair.transfer(points[k : k + 1]) for k, pair in enumerate(pairs)]
    for a, e in zip(graph.tensors(), code.tensors(), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-5 * float(e.abs().max()) if e.numel() else 0)
    assert torch.equal(torch.cat(found), expected)
    assert said


# A GPU

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def on_both() -> tuple[DHPF, DHPF, dict[str, Any]]:
    """One model on the CPU and on a GPU, and a batch of pairs."""
    draw = torch.Generator().manual_seed(0)
    batch = {f"{end}_img": torch.randn(4, 3, 64, 64, generator=draw) for end in ("src", "trg")}
    batch |= {f"{end}_kps": 60 * torch.rand(4, 2, 5, generator=draw) for end in ("src", "trg")}
    batch |= {
        "n_pts": torch.full((4,), 5),
        "pckthres": torch.full((4,), 64.0),
        "category_id": torch.arange(4),
    }
    torch.manual_seed(0)
    model = build("efficientnet_lite0", None).eval()
    return model, deepcopy(model).cuda(), batch


@gpu
def test_a_gpu_evaluates_like_the_cpu() -> None:
    cpu, cuda, batch = on_both()
    choose_device("cuda")  # no TF32
    with torch.no_grad():
        expected = cpu(batch["src_img"], batch["trg_img"])
        actual = cuda(batch["src_img"].cuda(), batch["trg_img"].cuda())
    assert torch.equal(actual.selection.cpu(), expected.selection)
    largest = float(expected.scores.column_max.max())
    torch.testing.assert_close(
        actual.scores.column_max.cpu(), expected.scores.column_max, rtol=0, atol=1e-4 * largest
    )


@gpu
@pytest.mark.parametrize("kind", list(SUPERVISIONS))
def test_a_gpu_trains_like_the_cpu(kind: str) -> None:
    cpu, cuda, batch = on_both()
    choose_device("cuda")
    losses = []
    for model, device in ((cpu, "cpu"), (cuda, "cuda")):
        noise = gate_noise(len(model.backbone.channels), 8, 0).to(device)
        step = SUPERVISIONS[kind](model.train(), to_device(batch, torch.device(device)), 0.1, 0.5, noise)
        step.loss.backward()
        losses.append(float(step.loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
