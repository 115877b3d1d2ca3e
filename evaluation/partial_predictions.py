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
from dhpf.evaluation.predictions import PairRow, PairRows

PART = "predictions.part-"  # and the number of the process that writes it


class PartialPredictions:
    """The rows of finished pairs, in files that grow by a line of JSON for each pair; a line that was cut is ignored.

    `rows` are those of earlier, stopped processes.

    Args:
        folder: of the run.
        fingerprint: what the predictions are of (`fingerprint`).
        rank: of this process, which has a file of its own.
    Raises:
        UserError: the folder has predictions of something else; the file cannot be written.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, str], rank: int) -> None:
        self.folder, self.path = folder, folder / f"{PART}{rank}"
        self.rows: PairRows = {}
        for path in sorted(folder.glob(f"{PART}*")):
            for line in path.read_text().splitlines():
                with suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, list):
                        pair, values, points, names, *known = entry
                        xy = np.array(points, np.float32).reshape(-1, 6)
                        self.rows[pair] = PairRow(tuple(values), xy, names, *known)
                    elif changed := [name for name in fingerprint if entry.get(name) != fingerprint[name]]:
                        raise UserError(f"--resume {folder}: the test began with other {', '.join(changed)}")
        self._write(json.dumps(dict(fingerprint)))

    def append(self, rows: PairRows) -> None:
        """Saves the rows of finished pairs. Raises: UserError: the file cannot be written."""
        entries = ([pair, values, xy.tolist(), *rest] for pair, (values, xy, *rest) in rows.items())
        self._write("\n".join(map(json.dumps, entries)))

    def delete(self) -> None:
        """Removes the files, once the results are written."""
        for path in self.folder.glob(f"{PART}*"):
            path.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        try:
            with self.path.open("a") as file:
                file.write(f"\n{text}")  # the line before may have been cut
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}): make room, go on with --resume {self.folder}"
            ) from error


def fingerprint(benchmark: Benchmark, checkpoint: Path | None) -> dict[str, str]:
    """Hashes of what predictions are of: the pairs and the checkpoint."""
    pairs = "\n".join(f"{pair.src_key}\t{pair.trg_key}" for pair in benchmark.pairs)
    return {
        "pairs": hashlib.sha256(pairs.encode(errors="surrogateescape")).hexdigest(),
        "checkpoint": sha256(checkpoint) if checkpoint else "none",
    }
