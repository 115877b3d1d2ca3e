"""What speed rests on: processors that are shared, images that are encoded once, calls that make one graph."""

import math
import os
import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dhpf.common import processors
from dhpf.evaluation.predict import in_order, plan
from dhpf.model.backbone import EfficientNetLite0
from dhpf.model.dhpf import DHPF

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


# One graph


def test_encoding_comparing_and_transferring_compile_without_a_break() -> None:
    torch.manual_seed(0)
    model = DHPF(EfficientNetLite0(EfficientNetLite0.pretrained())).eval()
    images, points = torch.randn(2, 3, 64, 64), 64 * torch.rand(1, 2, 5)
    compiled = partial(torch.compile, fullgraph=True, backend="eager")
    with torch.no_grad():
        code = model.encode(images)
        expected = model.compare(code[:1], code[1:]).transfer(points)
        graph = compiled(model.encode)(images)
        matched = compiled(lambda src, trg, at: model.compare(src, trg).transfer(at))(
            graph[:1], graph[1:], points
        )
    for a, e in zip(graph.tensors(), code.tensors(), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-5 * float(e.abs().max()))
    assert torch.equal(matched, expected)
