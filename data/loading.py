"""Loading in worker processes, in a given order, with unreadable items reported instead of raised."""

import multiprocessing
import os
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, default_convert

from dhpf.common.errors import UserError

MAX_WAIT_S = 600  # for a batch
MAX_TMPDIR_BYTES = 80  # a socket's path has 108 at most, or 104
MAX_ARRAY_BYTES = 2**16
LoadedBatch = tuple[Any, list[str]]


class _Items(Dataset[tuple[Any, str | None]]):
    """Items that `read` gives, each with the message of the UserError that it raised instead."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, item: Any) -> tuple[Any, str | None]:
        try:
            return self.read(item), None
        except UserError as error:
            return None, str(error)


def _collate(items: list[tuple[Any, str | None]]) -> LoadedBatch:
    """A batch, small tensors as arrays: each tensor that comes from a worker takes a descriptor of the system's."""
    good = [item for item, error in items if error is None]
    batch = default_collate(good) if good else None
    if isinstance(batch, dict):
        small = {k: v for k, v in batch.items() if isinstance(v, Tensor) and v.nbytes < MAX_ARRAY_BYTES}
        batch |= {k: v.numpy() for k, v in small.items()}
    return batch, [error for _, error in items if error is not None]


def _leave_signals_to_main(_: int) -> None:
    """Schedulers signal all processes of a job: the main one decides, and it alone may end its workers.

    They end when it does, however it ends and whatever process started them.
    """
    main = multiprocessing.parent_process()
    assert main is not None
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # all but macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # threads that begin later have it, too
        threading.Thread(target=_exit_on_sigterm, args=(main.pid,), daemon=True).start()
    threading.Thread(target=_exit_with, args=(main.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(0)


def _exit_on_sigterm(sender: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != sender:
        pass
    os._exit(0)


def skip_or_raise(errors: list[str], on_bad_pair: str) -> list[str]:
    """What could not be read, where that is to be skipped. Raises: UserError: it is to stop."""
    if errors and on_bad_pair == "stop":
        raise UserError(f"{errors[0]}: repair it, or skip such pairs with --on-bad-pair skip")
    return errors


class Loader:
    """Loads batches of items in worker processes, which stay, with their caches, from one call to the next.

    Args:
        read: reads an item.
        pin: put tensors into page-locked memory for a GPU.
    Raises: UserError: the path of the folder for temporary files is too long for the sockets of workers.
    """

    def __init__(self, read: Callable[[Any], Any], workers: int, pin: bool = False) -> None:
        if workers and len(os.fsencode(folder := tempfile.gettempdir())) > MAX_TMPDIR_BYTES:
            raise UserError(
                f"TMPDIR={folder}: longer than {MAX_TMPDIR_BYTES} characters, too long for the sockets of processes "
                "that load images: set a shorter one, or give --workers 0"
            )
        self._batches: list[Sequence[Any]] = []
        with warnings.catch_warnings(action="ignore"):  # that workers are more than cores
            self._loader = DataLoader(
                _Items(read),
                batch_sampler=self._batches,  # type: ignore[arg-type]
                num_workers=workers,
                persistent_workers=workers > 0,
                timeout=MAX_WAIT_S if workers else 0,
                collate_fn=_collate,
                worker_init_fn=_leave_signals_to_main,
                pin_memory=pin,
            )

    def __call__(self, batches: Sequence[Sequence[Any]]) -> Iterator[LoadedBatch]:
        """For every batch of items the collated `read(item)`s (None if there is none) and what could not be read.

        The result does not depend on the number of workers.
        """
        self._batches[:] = batches
        with warnings.catch_warnings(action="ignore"):
            return _converted(iter(self._loader))


def _converted(loaded: Iterator[LoadedBatch]) -> Iterator[LoadedBatch]:
    while True:
        begin = time.monotonic()
        try:
            batch, errors = next(loaded)
        except StopIteration:
            return
        except RuntimeError as error:
            if time.monotonic() - begin < MAX_WAIT_S:
                raise
            raise UserError(
                f"the processes that load images gave nothing for {MAX_WAIT_S} s: is the disk slow? Or give --workers 0"
            ) from error
        yield default_convert(batch), errors


def load(
    read: Callable[[Any], Any], batches: Sequence[Sequence[Any]], workers: int, pin: bool = False
) -> Iterator[LoadedBatch]:
    """What a `Loader` gives, once."""
    return Loader(read, min(workers, len(batches)), pin)(batches)
