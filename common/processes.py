"""Where a program computes: one process or several, started by `torchrun` or `accelerate launch`."""

import os
import sys
from functools import cache
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn

from dhpf.common.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of a name: auto (cuda or cpu), cpu, cuda, cuda:N or mps.

    Raises:
        UserError: there is no such device.
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
    if device.type == "mps":
        _say_what_mps_lacks()
    # TF32 rounds to ten bits, enough to flip gates.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return device


@cache
def _say_what_mps_lacks() -> None:
    falls = os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK") == "1"
    words = "is computed on the CPU" if falls else "is an error: import dhpf before torch"
    print(f"mps: what PyTorch's MPS lacks {words}", file=sys.stderr)


def start(device: str) -> tuple[PartialState, torch.device]:
    """The state of the processes, and the device of this one: the named one, or each process its own GPU.

    Raises:
        UserError: there is no such device.
    """
    chosen = choose_device(device)
    state = PartialState(cpu=chosen.type == "cpu")
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
