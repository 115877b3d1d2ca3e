"""Where a program computes: one process or several, started by `torchrun` or `accelerate launch`."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn

from dhpf.common.errors import UserError

PATIENCE = 10.0  # seconds without a word


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
        raise UserError(f"--compile: it pays on a CUDA GPU alone, and the device is {device}: leave it out")
    if device.type == "mps":
        say_what_mps_lacks()
    # TF32 rounds to ten bits, enough to flip gates.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


@cache
def say_what_mps_lacks() -> None:
    """Says once what becomes of it; PyTorch reads the variable when it is imported, and `dhpf` sets it before."""
    falls = os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK") == "1"
    words = "is computed on the CPU" if falls else "is an error: import dhpf before torch"
    print(f"mps: what PyTorch's MPS lacks {words}", file=sys.stderr)


def start(device: str, compiled: bool = False) -> tuple[PartialState, torch.device]:
    """The state of the processes, and the device of this one: the named one, or each process its own GPU.

    Raises: UserError: see `choose_device`.
    """
    chosen = choose_device(device, compiled)
    with waiting():
        state = PartialState(cpu=chosen.type == "cpu")
    return state, chosen if state.num_processes == 1 else state.device


@contextmanager
def waiting() -> Iterator[None]:
    """Says every few seconds which processes of a launcher are waited for; a signal kills meanwhile."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not {*names} <= os.environ.keys():
        yield
        return
    rank, count, host, port = (os.environ[name] for name in names)
    done = threading.Event()

    def tell() -> None:
        while not done.wait(PATIENCE):
            words = f"process {rank} of 0 to {int(count) - 1} waits for the others at {host}:{port}"
            print(words, file=sys.stderr, flush=True)

    threading.Thread(target=tell, daemon=True).start()
    # Torch waits in C, where Python's handlers are not called.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        done.set()
        for number, handler in before.items():
            signal.signal(number, handler)


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
