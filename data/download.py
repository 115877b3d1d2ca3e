"""Fetch a missing benchmark into the data folder: afterwards it is there whole, or not at all.

While PF-PASCAL, say, is fetched, all of it lies in the hidden folder `.PF-PASCAL.download` beside its place:
the download (an interrupted one stays, and the next run goes on from it) and the unpacked files, which are
renamed into place at the end; meanwhile `.PF-PASCAL.lock` keeps other processes waiting.  An archive saved by
hand as `PF-PASCAL.tar.gz` in the data folder is unpacked without any network, and left where it is.
"""

import argparse
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from dhpf.common import __version__
from dhpf.common.download import exclusive, storage_errors, transfer
from dhpf.common.errors import UserError
from dhpf.data import BENCHMARKS
from dhpf.data.archive import unpack
from dhpf.data.benchmark import Benchmark


def ensure(benchmark: type[Benchmark], datapath: str | Path, download: bool = True) -> Path:
    """The folder of a benchmark under `datapath`, fetched from the first of its `archive`s if it is missing.

    With `download=False` (`--no-download`) no network is used; an archive saved by hand is unpacked even so.

    Raises:
        UserError: it is missing and cannot be had; says which address to save as which file.
    """
    folder = Path(datapath) / benchmark.folder
    work = folder.with_name(f".{folder.name}.download")
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise UserError(f"{folder} is not a folder: move it away and run again")
        by_hand = folder.with_name(f"{folder.name}.tar.gz")
        advice = f"download {' or '.join(benchmark.archive)} by hand, save it as {by_hand} and run again"
        if not download and not by_hand.exists():
            raise UserError(
                f"{folder} is missing and downloads are off: run without --no-download, or {advice}"
            )
        with storage_errors(folder), exclusive(folder):
            if not folder.is_dir():
                try:
                    _install(benchmark, folder, work, by_hand)
                except UserError as error:
                    raise UserError(f"{folder} is missing ({error}): {advice}") from error
    if work.exists():  # of this run, or of one that was killed as it ended
        with suppress(OSError), exclusive(folder):
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _install(benchmark: type[Benchmark], folder: Path, work: Path, by_hand: Path) -> None:
    """Unpack the archive saved by hand, else that of the first address that gives a good one.

    Raises: UserError: there is none; says what was wrong with each.
    """
    archives = {url: work / f"{number}.tar.gz" for number, url in enumerate(benchmark.archive)}
    if by_hand.exists():
        archives = {str(by_hand): by_hand}
    unpacked, lists = work / "unpacked", [name.format(split="test") for name in benchmark.lists]
    reasons = []
    work.mkdir(exist_ok=True)
    try:
        for origin, archive in archives.items():
            try:
                if not archive.exists():
                    transfer(origin, archive)
                shutil.rmtree(unpacked, ignore_errors=True)  # of a killed run, or of another address
                unpack(archive, folder.name, unpacked)
                if not any((unpacked / folder.name / name).exists() for name in lists):
                    raise UserError(f"holds no list of test pairs in {folder.name} ({', '.join(lists)})")
            except UserError as error:
                reasons.append(f"{origin} {error}")
                if archive != by_hand:
                    archive.unlink(missing_ok=True)
            else:
                (unpacked / folder.name).rename(folder)
                return
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
        if not any(work.iterdir()):
            work.rmdir()
    raise UserError("; ".join(reasons))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Fetch a benchmark into the data folder, unless it is there."
    )
    parser.add_argument("--version", action="version", version=f"DHPF {__version__}")
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--datapath", default="../Datasets_DHPF", help="data folder (default %(default)s)")
    options = parser.parse_args()
    try:
        print(ensure(BENCHMARKS[options.benchmark], options.datapath))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
