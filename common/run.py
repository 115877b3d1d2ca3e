"""A run folder: options, text log, figures per epoch as CSV, TensorBoard events."""

import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

from common.errors import UserError

OPTIONS, LOG, HISTORY = "options.json", "log.txt", "history.csv"


class Run:
    """The files of a run that grow. Only one process has it; `None` stands in the others.

    All of them are append-only, so that the state of a run need only know their sizes: `rewind` cuts off what
    was written after a state was saved, and the resumed run goes on without gaps or doubles.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer = SummaryWriter(str(folder))

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
        text = json.dumps(dict(options), indent=2, default=str)
        (folder / OPTIONS).write_text(text + "\n")
        return cls(folder)

    def log(self, text: str) -> None:
        """A line for the console and the log."""
        print(text, flush=True)
        with (self.folder / LOG).open("a") as file:
            file.write(text + "\n")

    def record(self, epoch: int, figures: Mapping[str, float]) -> None:
        """The figures of an epoch, as a line of the CSV and as TensorBoard scalars."""
        path = self.folder / HISTORY
        new = not path.exists()
        with path.open("a", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            if new:
                rows.writerow(["epoch", *figures])
            rows.writerow([epoch, *figures.values()])
        for name, value in figures.items():
            self.writer.add_scalar(name, value, epoch)

    def sizes(self) -> dict[str, int]:
        """Sizes of the growing files, everything written so far included."""
        self.writer.flush()
        return {path.name: path.stat().st_size for path in self._growing()}

    def _growing(self) -> list[Path]:
        return [p for p in self.folder.iterdir() if p.name in (LOG, HISTORY) or p.name.startswith("events.")]

    @classmethod
    def rewind(cls, folder: Path, sizes: Mapping[str, int]) -> "Run":
        """The run as it was when its growing files had these sizes."""
        run = cls.__new__(cls)
        run.folder = folder
        for path in run._growing():
            if path.name not in sizes:
                path.unlink()
            elif path.stat().st_size > sizes[path.name]:
                with path.open("r+b") as file:
                    file.truncate(sizes[path.name])
        run.writer = SummaryWriter(str(folder))
        return run


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
