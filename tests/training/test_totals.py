"""Sums over steps, also of a device that has no double precision."""

from typing import Any

import torch

from dhpf.training.supervision import StepResult
from dhpf.training.totals import Totals


class OnMPS(torch.Tensor):
    """A tensor as on Apple's GPU: it gives no float64 until it was moved to the CPU."""

    device = torch.device("mps")  # type: ignore[misc]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


def test_a_device_without_double_precision_gives_the_same_sums() -> None:
    selection, pck = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([50.0, float("nan")])
    losses = torch.tensor(0.5), torch.tensor(0.25)
    steps = [
        StepResult(*losses, values[0], torch.zeros(2, 2, 1), values[1])
        for values in ((pck, selection), (pck.as_subclass(OnMPS), selection.as_subclass(OnMPS)))
    ]
    expected, found = (Totals.of_step(step) for step in steps)
    assert torch.equal(expected.selection, found.selection)
    assert (found.pck, found.pck_pairs, found.pairs) == (50, 1, 2)
