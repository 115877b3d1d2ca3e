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


@pytest.mark.parametrize(
    ("group", "files", "granted"),
    [
        ("0::/", {".": "150000 100000"}, 1.5),
        ("0::/a/b", {"a": "200000 100000", "a/b": "max 100000"}, 2),
        ("0::/not/here", {".": "50000 100000"}, 0.5),  # in a container only what is above it may be there
        (None, {}, math.inf),
    ],
)
def test_the_quota_of_a_control_group(
    tmp_path: Path, group: str | None, files: dict[str, str], granted: float
) -> None:
    contents = {CPU_MAX.format(name): text for name, text in files.items()}
    for name, text in (contents | ({"proc/self/cgroup": group} if group else {})).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert program.processor_quota(tmp_path) == granted
