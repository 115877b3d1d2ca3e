"""How much of a machine's processors a program takes. Nothing here imports torch: OpenMP is set before that."""

import math
import os
from contextlib import suppress
from pathlib import Path

# Of GNU's OpenMP, turns; of Intel's and LLVM's, milliseconds.
SPINS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}


def share_processors() -> None:
    """Have OpenMP take no more of the machine than it may; before torch is imported, and a user's own settings win.

    A thread that has done its share of a loop waits for the next in a loop of its own: longer than the next is away,
    or each begins with a call of the system; not much longer, or a program that runs beside this waits for it, and
    in the end this for that.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", *SPINS}:
        os.environ.update(SPINS)
    if hasattr(os, "sched_getaffinity") and (allowed := quota()) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, math.ceil(allowed))))


def quota(root: Path = Path("/")) -> float:
    """Processors' worth of time that this process's control groups grant it, as containers do; infinite without."""
    granted = math.inf
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            top = root / ("sys/fs/cgroup/cpu" if controllers else "sys/fs/cgroup")
            group = top / path.lstrip("/")  # in a container only what is above it may be there
            if not controllers or "cpu" in controllers.split(","):
                above = [folder for folder in group.parents if folder.is_relative_to(top)]
                granted = min(granted, *(_granted(folder) for folder in (group, *above)))
    return granted


def _granted(group: Path) -> float:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # of either version, microseconds
        with suppress(OSError, ValueError):  # ValueError: "max"
            time, period = (int(x) for name in names for x in (group / name).read_text().split())
            if time > 0:
                return time / period
    return math.inf
