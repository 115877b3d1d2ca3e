"""Where a program computes: one process or several, started by `torchrun` or `accelerate launch`."""

import os
import signal
import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn

from dhpf.common.errors import UserError
from dhpf.common.program import LAUNCHER

RENDEZVOUS_TIMEOUT = timedelta(
    minutes=30
)  # also of each exchange between processes: one may download a benchmark


def choose_device(name: str, compiled: bool = False) -> torch.device:
    """The device of a name: auto (cuda or cpu), cpu, cuda, cuda:N or mps.

    Raises:
        UserError: there is no such device, or it gains nothing from what is to be compiled.
    """
    cuda = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if cuda else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device, use auto, cpu, cuda, cuda:N or mps") from None
    there = {"cpu": True, "cuda": cuda, "mps": torch.backends.mps.is_available()}
    if not there.get(device.type):
        raise UserError(f"--device {name}: this machine's PyTorch has no such device, use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: the GPUs are 0 to {torch.cuda.device_count() - 1}")
    if compiled and device.type != "cuda":
        raise UserError(f"--compile: it needs a CUDA GPU, the device is {device}: leave it out")
    # TF32 rounds to ten bits, enough to flip gates.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


def start_processes(device: str, compiled: bool = False) -> tuple[PartialState, torch.device]:
    """The state of the processes, and the device of this one: the named one, or each process its own GPU.

    Raises: UserError: as `choose_device`; the processes of the launcher do not come together.
    """
    chosen = choose_device(device, compiled)
    # Torch waits in C, where Python's handlers of signals are not called.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        state = PartialState(cpu=chosen.type == "cpu", timeout=RENDEZVOUS_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        if "RANK" not in os.environ:
            raise
        variables = ", ".join(f"{name}={os.environ.get(name, '')}" for name in LAUNCHER)
        raise UserError(
            f"the processes that {variables} describe did not come together ({str(error).splitlines()[0]}): start them "
            "with torchrun, or unset these for one process"
        ) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return state, chosen if state.num_processes == 1 else state.device


def synchronise(module: nn.Module, share: float) -> None:
    """Average gradients and batch-norm statistics over processes, each weighted by its share of the batch."""
    tensors = [p.grad for p in module.parameters() if p.grad is not None]
    tensors += [b for b in module.buffers() if b.is_floating_point()]
    flat = reduce(torch.cat([t.flatten() for t in tensors]) * share, "sum")
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def total(values: Tensor) -> Tensor:
    """Sum over processes."""
    return reduce(values, "sum")


def gather(items: list[Any]) -> list[Any]:
    """The items of all processes, in the order of their ranks."""
    return gather_object(items)


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory in GiB that this process has had, where the system tells it, and has had on a GPU."""
    peaks = {}
    with suppress(ImportError):  # Windows has none
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes
        peaks["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    if device.type == "cuda":
        peaks["GPU memory"] = torch.cuda.max_memory_allocated(device) / 2**30
    return peaks
