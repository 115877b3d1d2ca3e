"""A run folder: options, text log, figures per epoch as CSV, TensorBoard events."""

import csv
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tqdm import tqdm

from dhpf.common import __version__
from dhpf.common.errors import UserError

OPTIONS, LOG, HISTORY, EVENTS = "options.json", "log.txt", "history.csv", "events.out.tfevents"
GROWING = (LOG, HISTORY, EVENTS)


class Run:
    """The files of a run that grow. Only one process has it; `None` stands in the others.

    All of them are append-only and complete after every call, so that the state of a run need only know their
    sizes: `rewind` cuts off what was written after a state was saved, and the resumed run goes on without gaps
    or doubles.  (tensorboardX's own writer starts a file per run and writes in a thread, later.)

    Every method raises a UserError where a file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, options: Mapping[str, Any]) -> "Run":
        """A new run folder.

        Raises:
            UserError: it exists already, or cannot be made.
        """
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"{folder}: the run folder exists already, choose another --logpath") from None
        except OSError as error:
            raise UserError(f"{folder}: the run folder cannot be made ({error.strerror})") from error
        run = cls(folder)
        try:
            run._append(OPTIONS, json.dumps(dict(options), indent=2, default=str) + "\n")
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

    def log(self, text: str) -> None:
        """A line for the console and the log."""
        with suppress(OSError):  # the console may be gone, or redirected to a full disk
            print(text, flush=True)
        self._append(LOG, text + "\n")

    def record(self, epoch: int, figures: Mapping[str, float]) -> None:
        """The figures of an epoch (counted from 1), as a line of the CSV and as TensorBoard scalars."""
        lines = StringIO()
        rows = csv.writer(lines, lineterminator="\n")
        events = []
        if epoch == 1:
            rows.writerow(["epoch", *figures])
            events.append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        rows.writerow([epoch, *figures.values()])
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        events.append(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))
        self._append(HISTORY, lines.getvalue())
        self._append(EVENTS, b"".join(_framed(event.SerializeToString()) for event in events))

    def _append(self, name: str, content: str | bytes) -> None:
        with _writing(self.folder / name), (self.folder / name).open("ab") as file:
            file.write(content.encode() if isinstance(content, str) else content)

    def sizes(self) -> dict[str, int]:
        """Sizes of the growing files."""
        paths = (self.folder / name for name in GROWING)
        return {path.name: path.stat().st_size for path in paths if path.exists()}

    @classmethod
    def rewind(cls, folder: Path, sizes: Mapping[str, int]) -> "Run":
        """The run as it was when its growing files had these sizes."""
        for path in (folder / name for name in GROWING):
            with _writing(path):
                if path.name not in sizes:
                    path.unlink(missing_ok=True)
                elif path.stat().st_size > sizes[path.name]:
                    os.truncate(path, sizes[path.name])
        return cls(folder)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: the file cannot be written ({error.strerror})") from error


def _framed(data: bytes) -> bytes:
    """A record of a TensorBoard file: length, data, and a checksum of each."""
    length = struct.pack("<Q", len(data))
    sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
    return length + next(sums) + data + next(sums)


@contextmanager
def progress(description: str, total: int, visible: bool = True) -> Iterator[Callable[..., None]]:
    """Progress over `total` pairs: a bar on a terminal, some lines where output is redirected.

    The context is a function of the number of pairs done since its last call and of figures to show.
    """
    if visible and sys.stderr.isatty():
        with tqdm(total=total, desc=description, unit="pair", dynamic_ncols=True, leave=False) as bar:

            def advance(pairs: int, **figures: float) -> None:
                bar.set_postfix({k: f"{v:.3g}" for k, v in figures.items()}, refresh=False)
                bar.update(pairs)

            yield advance
        return
    start, done, shown = time.monotonic(), 0, 0.0

    def report(pairs: int, **figures: float) -> None:
        nonlocal done, shown
        done += pairs
        seconds = time.monotonic() - start
        if visible and seconds - shown > 30:
            shown = seconds
            values = "".join(f", {k} {v:.3g}" for k, v in figures.items())
            left = seconds / max(done, 1) * (total - done)
            speed = f"{done / seconds:.1f} pairs/s, {left:.0f} s left"
            print(f"{description}: {done}/{total} pairs{values}, {speed}", flush=True)

    yield report


@cache
def versions() -> dict[str, str | None]:
    """What computed the figures: Python, torch, this program and its git commit (None outside a clone)."""
    import torch  # not needed to say which options there are

    root = Path(__file__).parents[1]
    git = ["git", "--no-optional-locks", "--git-dir=.git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run([*git, "--abbrev=40"], cwd=root, capture_output=True, text=True, check=True)
        commit = done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # of a class of its own, which state files must not hold
        "dhpf": __version__,
        "commit": commit,
    }
