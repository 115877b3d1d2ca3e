"""What speed rests on: processors that are shared, images that are encoded once, calls that make one graph."""

import math
import os
import random
import runpy
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dhpf.common import processes, processors
from dhpf.common.errors import UserError
from dhpf.common.processes import choose_device
from dhpf.matching.predict import in_order, plan
from dhpf.model.compiled import CompiledDHPF
from dhpf.model.dhpf import DHPF
from dhpf.model.options import RANDOM
from dhpf.programs import matching, testing
from dhpf.training import SUPERVISIONS
from dhpf.training.supervision import gate_noise, to_device
from dhpf.weights.checkpoint import build_model
from tests.helpers import tiny
from tests.helpers.commands import run
from tests.helpers.places import ROOT

# Processors


@pytest.mark.parametrize(
    "own", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {"OMP_NUM_THREADS": "5"}]
)
def test_openmp_spins_shortly_and_has_the_granted_threads_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, str]
) -> None:
    before = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))
    }
    environment = before | own
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(processors, "quota", lambda: 2.5)
    processors.share_processors()
    spins = {} if own.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} else processors.SPINS
    assert environment == before | {"OMP_NUM_THREADS": "3"} | spins | own


CPU_MAX, V1 = "sys/fs/cgroup/{}/cpu.max", "sys/fs/cgroup/cpu/{}/cpu.cfs_{}_us"


@pytest.mark.parametrize(
    ("groups", "files", "granted"),
    [
        ("0::/", {}, math.inf),
        ("0::/", {CPU_MAX.format("."): "max 100000"}, math.inf),
        ("0::/", {CPU_MAX.format("."): "150000 100000"}, 1.5),
        ("0::/a/b", {CPU_MAX.format("a"): "200000 100000", CPU_MAX.format("a/b"): "max 100000"}, 2),
        ("0::/not/here", {CPU_MAX.format("."): "50000 100000"}, 0.5),
        (
            "3:cpu,cpuacct:/job",
            {V1.format("job", "quota"): "400000", V1.format("job", "period"): "100000"},
            4,
        ),
        (
            "3:cpu,cpuacct:/job",
            {V1.format("job", "quota"): "-1", V1.format("job", "period"): "100000"},
            math.inf,
        ),
        ("2:memory:/\n1:cpuset:/\n0::/", {CPU_MAX.format("."): "100000 100000"}, 1),
    ],
)
def test_the_quota_of_a_control_group(
    tmp_path: Path, groups: str, files: dict[str, str], granted: float
) -> None:
    for name, text in ({"proc/self/cgroup": groups} | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert processors.quota(tmp_path) == granted


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert processors.quota(tmp_path) == math.inf


# Images


def test_images_are_encoded_once_where_a_category_fits() -> None:
    """As SPair-71k has them: pairs within categories, of which the list mixes the images."""
    draw = random.Random(0)
    keys = [
        (f"{c}/{draw.randrange(26):02}.jpg", f"{c}/{draw.randrange(26):02}.jpg")
        for c in "abcd"
        for _ in range(200)
    ]
    draw.shuffle(keys)
    pairs = [SimpleNamespace(src_key=src, trg_key=trg) for src, trg in keys]
    order = in_order(SimpleNamespace(pairs=pairs))  # type: ignore[arg-type]

    def encoded(indices: list[int]) -> int:
        batches = [indices[b : b + 8] for b in range(0, len(indices), 8)]
        return sum(len(missing) for _, missing, _ in plan(keys, batches, 40))

    assert sorted(order) == list(range(len(keys)))
    assert encoded(order) == len({key for pair in keys for key in pair}) < encoded(list(range(len(keys))))


# Calls


def test_a_pair_takes_few_calls_and_none_waits_for_a_value() -> None:
    """Counted where nothing is computed, so that a value that is read back is an error."""
    calls = runpy.run_path(str(ROOT / "benchmarks" / "speed.py"))["calls"]("resnet101", 240)
    assert calls["encoding both images"] <= 312  # of which 237 are the backbone's
    assert calls["comparing and transferring"] <= 152


@pytest.mark.skipif(torch.__version__ < (2, 14), reason="older ones were seen not to compile all of it")
@pytest.mark.parametrize("name", ["resnet50", "timm:resnet10t"])
def test_a_compiled_model_finds_the_same_and_has_no_break(name: str) -> None:
    """Compiled by what only traces; a test fails where a graph would break."""
    torch.manual_seed(0)
    model = build_model(name, RANDOM).eval()
    images, points = torch.randn(4, 3, 64, 64), 64 * torch.rand(2, 2, 5)
    with torch.no_grad():
        code = model.encode(images)
        expected = model.compare(code[:2], code[2:]).transfer(points)
        compiled = CompiledDHPF(model, 64, backend="eager")
        graph = compiled.encode(images)
        pairs = [compiled.compare(graph[k : k + 1], graph[k + 2 : k + 3]) for k in range(2)]
        found = [pair.transfer(points[k : k + 1]) for k, pair in enumerate(pairs)]
    for a, e in zip(graph.tensors(), code.tensors(), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-5 * float(e.abs().max()) if e.numel() else 0)
    assert torch.equal(torch.cat(found), expected)


def test_what_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("timm:resnet18", RANDOM).eval()
    monkeypatch.setattr(DHPF, "encode", lambda *_: torch._dynamo.graph_break())
    with pytest.raises(UserError, match=r"PyTorch 2\S+ cannot compile timm:resnet18 "):
        CompiledDHPF(model, 64, backend="eager")


def test_testing_and_matching_compile_for_a_gpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.make_pfpascal(tmp_path, pairs=2)
    image = next(tmp_path.rglob("*.jpg"))
    programs = (
        "test.py --benchmark pfpascal --datapath . --no-download --workers 0 --img-side 64 --compile",
        f"match.py {image} {image} --img-side 64 --compile",
    )
    for program in programs:
        refused = run(tmp_path, program)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "--compile: it pays on a CUDA GPU alone, and the device is cpu" in refused.err
    frames: list[int] = []

    def compile_model(model: DHPF, frame: int, log: object) -> DHPF:
        frames.append(frame)
        return model

    for module in (testing, matching):
        monkeypatch.setattr(module, "CompiledDHPF", compile_model)
    for module in (processes, matching):
        monkeypatch.setattr(module, "choose_device", lambda name, compiled=False: torch.device("cpu"))
    assert [run(tmp_path, program).code for program in programs] == [0, 0]
    assert frames == [64, 64]


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
    model = build_model("efficientnet_lite0", None).eval()
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


@gpu
def test_a_model_of_cuda_graphs_finds_the_same() -> None:
    """Each result is its own: none lies where the graph's next run writes."""
    _, model, batch = on_both()
    points = batch["src_kps"].cuda()
    images = torch.cat([batch["src_img"], batch["trg_img"]]).cuda()
    with torch.no_grad():
        code = model.encode(images)
        expected = model.compare(code[:4], code[4:]).transfer(points)
        compiled = CompiledDHPF(model, 64)
        graph = compiled.encode(images)
        pairs = [compiled.compare(graph[k : k + 1], graph[k + 4 : k + 5]) for k in range(4)]
        found = torch.cat([pair.transfer(points[k : k + 1]) for k, pair in enumerate(pairs)])
    torch.testing.assert_close(found, expected, rtol=0, atol=4)  # a cell
