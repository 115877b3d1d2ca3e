"""A run folder: the names of its files, its lock, log, tables and TensorBoard events; progress; versions."""

import csv
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dhpf.common import __version__
from dhpf.common.errors import UserError
from dhpf.common.files import replace_file
from dhpf.common.program import Stopped, echo

if TYPE_CHECKING:  # imported where they are needed: `--help` needs only the names of files
    from filelock import FileLock
    from PIL.Image import Image
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.summary_pb2 import Summary

# The files of a run folder.
OPTIONS, LOG, LOCK = "options.json", "log.txt", ".lock"
EVENTS = "events.out.tfevents"  # how the names of TensorBoard's files begin
# Of a training: figures of each epoch; its time and memory, which differ from machine to machine.
HISTORY, RESOURCES = "history.csv", "time_and_memory.csv"
STATES = STATE, NOT_FINITE = "state.pt", "not_finite.pt"
BEST_MODEL, BEST_MODEL_SAFETENSORS = "best_model.pt", "best_model.safetensors"
TRAINING_IMAGES = "training_images.txt"  # hashes of the images that were trained on
RESULTS, PREDICTIONS = "results.json", "predictions.csv.gz"  # of a test
SEARCH_STATE, LAYERS = "search.json", "layers.json"  # of a search
REPORT, PICTURES, EXPLORERS = "report.html", "pictures", "explorer"

FLUSH_SECONDS = 30.0  # between writes of TensorBoard's events to the disk
PROGRESS_SECONDS = 60.0  # between lines of progress


class Run:
    """A run folder in the process that writes it. Other processes are refused it until `close`, or until this one ends.

    The log, the tables and TensorBoard's files only grow. The state of a run therefore holds no more of them than their
    `sizes`: `rewind` cuts off what was written after the state was saved.

    As a context it writes into the log what stops the run, and closes it. Every method raises a UserError where a file
    cannot be written.
    """

    def __init__(self, folder: Path, quiet: bool = False) -> None:
        """Open a folder that is there.

        Args: quiet: the console gets none of the log.
        Raises: UserError: another process has it.
        """
        self.folder = folder
        self.quiet = quiet
        self._lock = lock_folder(folder)
        self._events: EventsWriter | None = None
        self._flushed = time.monotonic()

    @classmethod
    def create(
        cls, folder: Path, options: Mapping[str, Any], *, numbered: bool = False, quiet: bool = False
    ) -> "Run":
        """Make a run folder.

        Args: numbered: a number is added to its name where there is such a folder.
        Raises: UserError: it exists already. OSError: it cannot be made.
        """
        names = (f"{folder.name}-{number}" if number > 1 else folder.name for number in count(1))
        for name in names if numbered else [folder.name]:
            try:
                folder.with_name(name).mkdir(parents=True)
            except FileExistsError:
                continue
            break
        else:
            raise UserError(
                f"{folder}: the run folder exists already: choose another --logpath, replace it with --overwrite, or "
                f"continue it with --resume {folder}"
            )
        folder = folder.with_name(name)
        run = cls(folder, quiet)
        try:
            replace_file(folder / OPTIONS, (json.dumps(dict(options), indent=2, default=str) + "\n").encode())
        except UserError:
            run.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(UserError):  # the disk may be full
            if isinstance(error, Stopped):
                self.log(f"stopped by {error.number.name}: continue with --resume {self.folder}")
            elif isinstance(error, Exception):
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                self.log_to_file(f"stopped: {kind}{error}")
        self.close()

    def close(self) -> None:
        if self._events:
            with suppress(OSError):
                self._events.close()
        self._lock.release()

    def log(self, text: str) -> None:
        """Write a line to the console and to the log."""
        if not self.quiet:
            echo(text)
        self.log_to_file(text)

    def log_to_file(self, text: str) -> None:
        with _write_errors(self.folder / LOG), (self.folder / LOG).open("ab") as file:
            file.write(f"{text}\n".encode(errors="backslashreplace"))

    def record(self, epoch: int, figures: Mapping[str, float], table: str = HISTORY) -> None:
        """Add a row to a table, with the columns of its first line: a run of an earlier version may have fewer."""
        path = self.folder / table
        with _write_errors(path), path.open("a+", newline="") as file:
            file.seek(0)
            columns = next(csv.reader(file), None)
            rows = csv.DictWriter(file, columns or ["epoch", *figures], "", "ignore", lineterminator="\n")
            if not columns:
                rows.writeheader()
            rows.writerow({"epoch": epoch, **figures})

    def add_events(
        self,
        step: int,
        scalars: Mapping[str, float],
        images: Mapping[str, "Image"] | None = None,
        summaries: "Iterable[Summary]" = (),
    ) -> None:
        """Add scalars that are finite, images and other summaries to TensorBoard's events."""
        # EventsWriter writes at once. SummaryWriter leaves it to a thread: a killed run loses what its state counts on,
        # and where the disk is full that thread ends, and the program waits for it without end.
        import numpy as np
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import image, scalar

        summaries = [*summaries, *(scalar(k, v) for k, v in scalars.items() if math.isfinite(v))]
        summaries += [image(name, np.asarray(v), dataformats="HWC") for name, v in (images or {}).items()]
        with _write_errors(self.folder / EVENTS):
            if not self._events:
                number = len(list(self.folder.glob(f"{EVENTS}*")))  # names tell seconds alone apart
                self._events = EventsWriter(str(self.folder / EVENTS.partition(".")[0]), f".{number}")
            for summary in summaries:
                self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._events.flush()
                self._flushed = time.monotonic()

    def add_hyperparameters(self, options: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Add the options and the final figures to TensorBoard's table of hyper-parameters."""
        from tensorboardX.summary import hparams

        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        values = {k: v if isinstance(v, int | float) else str(v) for k, v in options.items() if v is not None}
        self.add_events(0, figures, summaries=hparams(values, figures))

    def sizes(self) -> dict[str, int]:
        """Sizes in bytes of the files that grow, which are on the disk then."""
        if self._events:
            with _write_errors(self.folder / EVENTS):
                self._events.flush()
        return {path.name: path.stat().st_size for path in self._growing()}

    def rewind(self, sizes: Mapping[str, int]) -> None:
        """Cut the files that grow back to these sizes. Those that are not named are removed."""
        for path in self._growing():
            if path.name not in sizes:
                path.unlink()
            elif path.stat().st_size > sizes[path.name]:
                os.truncate(path, sizes[path.name])

    def _growing(self) -> list[Path]:
        names = (LOG, HISTORY, RESOURCES)
        return [p for p in self.folder.iterdir() if p.name in names or p.name.startswith(EVENTS)]


def replace_run(folder: Path) -> None:
    """Remove a run folder, if there is one. Raises: UserError: another process has it, or it is no run folder."""
    if not folder.exists():
        return
    if not (folder / OPTIONS).is_file():
        raise UserError(f"--overwrite: {folder} is not the folder of a run, choose another --logpath")
    lock = lock_folder(folder)
    shutil.rmtree(folder)
    lock.release()


def lock_folder(folder: Path) -> "FileLock":
    """Lock a folder until `release`, or until this process ends. Raises: UserError: another process has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder}: another process is writing in this folder, wait until it ends or choose another"
        ) from None
    except (OSError, NotImplementedError):
        pass  # a file system without locks; or a folder that cannot be written, which its first file tells
    return lock


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: the file cannot be written ({error.strerror})") from error


@contextmanager
def progress(description: str, total: int, visible: bool = True) -> Iterator[Callable[..., None]]:
    """Show progress over `total` pairs, pairs a second and the time left: a bar on a terminal, else a line a minute.

    Yields: a function of the number of pairs done since its last call, and of figures to show.
    """
    if visible and sys.stderr and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=description, unit="pair", dynamic_ncols=True, leave=False) as bar:

            def update_bar(pairs: int, **figures: float) -> None:
                bar.set_postfix({k: f"{v:.3g}" for k, v in figures.items()}, refresh=False)
                bar.update(pairs)

            yield update_bar
        return
    start, done, printed = time.monotonic(), 0, 0.0

    def print_line(pairs: int, **figures: float) -> None:
        nonlocal done, printed
        done += pairs
        seconds = time.monotonic() - start
        if visible and seconds - printed >= PROGRESS_SECONDS:
            printed = seconds
            values = "".join(f", {k} {v:.3g}" for k, v in figures.items())
            left = seconds / max(done, 1) * (total - done)
            speed = f"{done / seconds:.1f} pairs/s, {left:.0f} s left"
            echo(f"{description}: {done}/{total} pairs{values}, {speed}")

    yield print_line


@cache
def versions() -> dict[str, str | None]:
    """Versions of Python, torch and this program, and its git commit (None outside a clone)."""
    import torch

    root = Path(__file__).resolve().parents[1]
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
