"""Where a program computes: one process or several, started by `torchrun` or `accelerate launch`."""

import ctypes
from contextlib import suppress
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor, nn

from dhpf.common.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def start(device: str) -> tuple[PartialState, torch.device]:
    """The state of the processes, and the device of this one.

    Raises:
        UserError: there is no such device.
    """
    cuda = torch.cuda.is_available()
    if device != "auto":
        try:
            kind = torch.device(device).type
        except RuntimeError:
            raise UserError(f"--device {device}: no such device, use auto, cpu, cuda or cuda:N") from None
        if kind not in ("cpu", "cuda") or (kind == "cuda" and not cuda):
            raise UserError(f"--device {device}: this machine's PyTorch has no such device, use --device cpu")
        cuda = kind == "cuda"
    state = PartialState(cpu=not cuda)
    chosen = torch.device(device) if ":" in device and state.num_processes == 1 else state.device
    if cuda and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: the GPUs are 0 to {torch.cuda.device_count() - 1}")
    # TF32 rounds to ten bits, enough to flip gates.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return state, chosen


def keep_freed_memory() -> None:
    """Have glibc reuse what this process frees, in blocks up to 32 MiB, instead of returning it to the system.

    New pages took a seventh of an evaluation's time.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest block that it may say this of


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
