"""How much of a machine's processors a program takes; programs' ends are tested in tests/programs."""

import math
import os
from pathlib import Path

import pytest

from dhpf.common import program

CPU_MAX = "sys/fs/cgroup/{}/cpu.max"


@pytest.mark.parametrize(
    "own", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {"OMP_NUM_THREADS": "5"}]
)
def test_openmp_spins_shortly_and_has_the_granted_threads_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, str]
) -> None:
    prefixes = ("OMP_", "GOMP_", "KMP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)} | own
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(program, "processor_quota", lambda: 2.5)
    program.prepare_process()
    spins = {} if own.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} else program.SPIN_LIMITS
    openmp = {name: value for name, value in environment.items() if name.startswith(prefixes)}
    assert openmp == {"OMP_NUM_THREADS": "3"} | spins | own
    assert environment["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"


def test_the_quota_is_the_smallest_of_a_control_group_and_those_above_it(tmp_path: Path) -> None:
    assert program.processor_quota(tmp_path) == math.inf
    for name, text in {"": "300000 100000", "a": "150000 100000", "a/b": "max 100000"}.items():
        (tmp_path / CPU_MAX.format(name)).parent.mkdir(parents=True)
        (tmp_path / CPU_MAX.format(name)).write_text(f"{text}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    assert program.processor_quota(tmp_path) == 1.5
