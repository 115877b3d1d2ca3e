"""A run folder: options, text log, figures per epoch as CSV, TensorBoard events."""

import csv
import json
import math
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
from io import BytesIO, StringIO
from itertools import chain, count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL.Image import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams
from tqdm import tqdm

from dhpf.common import __version__
from dhpf.common.errors import UserError
from dhpf.common.program import Stopped

RESULTS, PREDICTIONS = "results.json", "predictions.csv.gz"
BEST_MODEL, STATES = "best_model.pt", ("state.pt", "not_finite.pt")
OPTIONS, LOG, HISTORY, EVENTS = "options.json", "log.txt", "history.csv", "events.out.tfevents"
LOCK = ".lock"
MINUTE = 60.0  # seconds between lines of progress
RESOURCES = "time_and_memory.csv"
GROWING = (LOG, HISTORY, EVENTS, RESOURCES)


class Run:
    """The files of a run that grow. Only one process has it; `None` stands in the others.

    All of them are append-only and complete after every call, so that the state of a run need only know their
    sizes: `rewind` cuts off what was written after a state was saved, and the resumed run goes on without gaps
    or doubles.  (tensorboardX's own writer starts a file per run and writes in a thread, later.)

    The folder belongs to this process until `close`, or until it ends, however it does.  Every method raises a
    UserError where a file cannot be written; the first, where another process has the folder.
    """

    def __init__(self, folder: Path, quiet: bool = False) -> None:
        """Args: quiet: the console gets none of the log."""
        self.folder = folder
        self.quiet = quiet
        self._lock = hold(folder)

    def close(self) -> None:
        self._lock.release()

    @classmethod
    def create(
        cls, folder: Path, options: Mapping[str, Any], *, numbered: bool = False, quiet: bool = False
    ) -> "Run":
        """A new run folder.

        Args: numbered: a number is added to its name where there is such a folder.

        Raises:
            UserError: it exists already, or cannot be made.
        """
        others = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
        for place in chain([folder], others if numbered else ()):
            try:
                place.mkdir(parents=True)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(f"{place}: the run folder cannot be made ({error.strerror})") from error
        else:
            raise UserError(
                f"{folder}: the run folder exists already, choose another --logpath or go on with --resume {folder}"
            )
        run = cls(place, quiet)
        try:
            run._append(OPTIONS, json.dumps(dict(options), indent=2, default=str) + "\n")
        except UserError:
            run.close()
            shutil.rmtree(place, ignore_errors=True)
            raise
        return run

    def log(self, text: str) -> None:
        """A line for the console and the log."""
        if not self.quiet:
            with suppress(OSError):  # the console may be gone, or redirected to a full disk
                print(text, flush=True)
        self.note(text)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Within, what stops the run gets into its log; afterwards the folder is free."""
        try:
            yield
        except Stopped as stop:
            self.log(f"stopped by {stop.number.name}: continue with --resume {self.folder}")
            raise
        except Exception as error:
            if words := str(error) if isinstance(error, UserError) else "":
                with suppress(UserError):  # the disk may be what is full
                    self.note(f"stopped: {words}")
            raise
        finally:
            self.close()

    def note(self, text: str) -> None:
        """A line for the log alone."""
        self._append(LOG, text + "\n")

    def record(self, epoch: int, figures: Mapping[str, float]) -> None:
        """The figures of an epoch (counted from 1), as a line of the CSV and as TensorBoard scalars."""
        self._line(HISTORY, epoch, figures)
        self.show(epoch, figures)

    def record_resources(self, epoch: int, used: Mapping[str, float]) -> None:
        """The time and memory of an epoch: apart from its figures, since they differ from machine to machine."""
        self._line(RESOURCES, epoch, {name: round(value, 3) for name, value in used.items()})

    def _line(self, name: str, epoch: int, figures: Mapping[str, float]) -> None:
        """A line of a CSV, with the columns that its first line names: a run of an earlier version has fewer."""
        lines, columns = StringIO(), [*figures]
        rows = csv.writer(lines, lineterminator="\n")
        if (self.folder / name).exists():
            with _writing(self.folder / name), (self.folder / name).open(newline="") as file:
                columns = next(csv.reader(file), ["epoch"])[1:]
        else:
            rows.writerow(["epoch", *columns])
        rows.writerow([epoch, *(figures.get(column, "") for column in columns)])
        self._append(name, lines.getvalue())

    def show(
        self, step: int, figures: Mapping[str, float], images: Mapping[str, Image] | None = None
    ) -> None:
        """TensorBoard scalars, but those that are not finite, and images."""
        values = [Summary.Value(tag=k, simple_value=v) for k, v in figures.items() if math.isfinite(v)]
        for name, picture in (images or {}).items():
            content = BytesIO()
            picture.save(content, "png")
            width, height = picture.size
            shown = {"width": width, "height": height, "colorspace": 3}
            values.append(
                Summary.Value(tag=name, image=Summary.Image(encoded_image_string=content.getvalue(), **shown))
            )
        self._event(Summary(value=values), step)

    def conclude(self, options: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """The final figures beside the options, as TensorBoard's hyper-parameters."""
        figures = {k: v for k, v in figures.items() if math.isfinite(v)}
        known = {
            k: v if isinstance(v, bool | int | float) else str(v) for k, v in options.items() if v is not None
        }
        for summary in hparams(known, figures):
            self._event(summary)
        self.show(0, figures)

    def _event(self, summary: Summary, step: int = 0) -> None:
        events = [Event(wall_time=time.time(), step=step, summary=summary)]
        if not (self.folder / EVENTS).exists():
            events.insert(0, Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._append(EVENTS, b"".join(_framed(event.SerializeToString()) for event in events))

    def _append(self, name: str, content: str | bytes) -> None:
        with _writing(self.folder / name), (self.folder / name).open("ab") as file:
            file.write(content.encode() if isinstance(content, str) else content)

    def sizes(self) -> dict[str, int]:
        """Sizes of the growing files."""
        paths = (self.folder / name for name in GROWING)
        return {path.name: path.stat().st_size for path in paths if path.exists()}

    def rewind(self, sizes: Mapping[str, int]) -> None:
        """Make the run what it was when its growing files had these sizes."""
        for path in (self.folder / name for name in GROWING):
            with _writing(path):
                if path.name not in sizes:
                    path.unlink(missing_ok=True)
                elif path.stat().st_size > sizes[path.name]:
                    os.truncate(path, sizes[path.name])


def replace_run(folder: Path) -> None:
    """Removes a run folder, if there is one. Raises: UserError: it is another's, or no run folder."""
    if not folder.exists():
        return
    if not (folder / OPTIONS).is_file():
        raise UserError(f"--overwrite: {folder} is not the folder of a run, choose another --logpath")
    lock = hold(folder)
    with _writing(folder):
        shutil.rmtree(folder)
    lock.release()


def hold(folder: Path) -> FileLock:
    """The lock of a folder, which ends with its process. Raises: UserError: another process has it."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder}: another process is writing in this folder, wait until it ends or choose another"
        ) from None
    except (OSError, NotImplementedError):
        pass  # a file system without locks; or a folder that cannot be written, which is told when that is tried
    return lock


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
    """Progress over `total` pairs, with pairs a second and the time left: a bar on a terminal, else a line a minute.

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
        if visible and seconds - shown >= MINUTE:
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
