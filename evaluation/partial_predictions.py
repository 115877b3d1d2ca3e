"""What a test has predicted so far, in its run folder: it can be stopped anywhere, and goes on from there."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from dhpf.common.errors import UserError
from dhpf.common.files import sha256
from dhpf.data.benchmark import Benchmark
from dhpf.evaluation.predictions import PairRows

PART = "predictions.part-"  # and the number of the process that writes it


class PartialPredictions:
    """The rows of `evaluation.table` in files that grow, a line of JSON for each pair; a cut line counts as none.

    Args:
        folder: of the run.
        about: what the predictions are of (`identity`).
        rank: of this process.
    Raises:
        UserError: the folder has predictions of something else; later, one cannot be written.
    """

    def __init__(self, folder: Path, about: Mapping[str, str], rank: int) -> None:
        self.rows: PairRows = {}
        for path in sorted(folder.glob(f"{PART}*")):
            for line in path.read_text().splitlines():
                with suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, list):
                        pair, told, points, names = entry
                        self.rows[pair] = tuple(told), np.array(points, np.float32).reshape(-1, 6), names
                    elif changed := [name for name in about if entry.get(name) != about[name]]:
                        raise UserError(f"--resume {folder}: the test began with other {', '.join(changed)}")
        self.path = folder / f"{PART}{rank}"
        self._append(json.dumps(dict(about)))

    def __call__(self, rows: PairRows) -> None:
        """Keeps the rows of some pairs."""
        entries = ([pair, told, points.tolist(), names] for pair, (told, points, names) in rows.items())
        self._append("\n".join(map(json.dumps, entries)))

    def _append(self, text: str) -> None:
        try:
            with self.path.open("a") as file:
                file.write(f"\n{text}")  # the line before may have been cut
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}): make room, go on with --resume {self.path.parent}"
            ) from error


def identity(benchmark: Benchmark, checkpoint: Path | None) -> dict[str, str]:
    """What predictions are of: the pairs and the checkpoint."""
    pairs = "\n".join(f"{pair.src_key}\t{pair.trg_key}" for pair in benchmark.pairs)
    return {
        "pairs": hashlib.sha256(pairs.encode(errors="surrogateescape")).hexdigest(),
        "checkpoint": sha256(checkpoint) if checkpoint else "none",
    }


def delete(folder: Path) -> None:
    """Removes what was kept, when the results are there."""
    for path in folder.glob(f"{PART}*"):
        path.unlink(missing_ok=True)
