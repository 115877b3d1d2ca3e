"""Loading in worker processes."""

import os
import time

import pytest

from dhpf.common.errors import UserError
from dhpf.data import loading
from dhpf.data.loading import Loader


def process(item: int) -> int:
    return os.getpid()


@pytest.mark.filterwarnings("error")
def test_workers_stay_from_one_epoch_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    # More workers than cores, which torch would warn of.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    load = Loader(process, 2)
    epochs = [{int(pid) for batch, _ in load([[0], [1], [2]]) for pid in batch} for _ in range(3)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(epochs[0]) == 2
    assert os.getpid() not in epochs[0]


def test_a_worker_that_gives_nothing_is_not_waited_for_without_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "MAX_WAIT_S", 1)
    with pytest.raises(UserError, match=r"--workers 0"):
        list(Loader(time.sleep, 1)([[2]]))
