"""Which images a run is trained on, kept in its folder: tests on own data then tell which pairs show them."""

from pathlib import Path

from dhpf.common.files import MIB, read_text, replace_file
from dhpf.common.run import TRAINING_IMAGES
from dhpf.data.benchmark import Benchmark


def save_training_images(folder: Path, benchmark: Benchmark) -> None:
    """Writes the hashes of the files of a training split's images into a run's folder."""
    hashes = sorted(set(benchmark.hashes().values()))
    replace_file(folder / TRAINING_IMAGES, "".join(f"{value}\n" for value in hashes).encode())


def load_training_images(folder: Path) -> set[str] | None:
    """The hashes of the images that the run of a folder was trained on; None: not known."""
    path = folder / TRAINING_IMAGES
    return set(read_text(path, 64 * MIB).split()) if path.is_file() else None
