"""The worked examples in the fast path's docstrings are true."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["grid", "features", "correlation", "voting", "hough", "weak_loss"])
def test_worked_examples(name: str) -> None:
    result = doctest.testmod(import_module(f"dhpf.model.{name}"))
    assert result.attempted
    assert not result.failed
