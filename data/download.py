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
from typing import NamedTuple

from dhpf.common.download import DRIVE, alone, storage_errors, transfer
from dhpf.common.errors import UserError
from dhpf.data.archive import unpack


class Source(NamedTuple):
    """A benchmark's folder, a file that it must hold, the addresses of its archive in the order tried."""

    folder: str
    proof: str
    urls: tuple[str, ...]


# Spec section 9.  Of what the owners serve themselves only SPair-71k's has this layout.
SOURCES = {
    "pfpascal": Source("PF-PASCAL", "test_pairs.csv", (DRIVE + "1OOwpGzJnTsFXYh-YffMQ9XKM_Kl_zdzg",)),
    "pfwillow": Source("PF-WILLOW", "test_pairs.csv", (DRIVE + "1tDP0y8RO5s45L-vqnortRaieiWENQco_",)),
    "caltech": Source(
        "Caltech-101", "test_pairs_caltech_with_category.csv", (DRIVE + "1IV0E5sJ6xSdDyIvVSTdZjPHELMwGzsMn",)
    ),
    "spair": Source(
        "SPair-71k",
        "Layout/large/test.txt",
        (
            DRIVE + "1KSvB0k2zXA06ojWNvFjBv0Ake426Y76k",
            "https://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz",
        ),
    ),
}


def ensure(name: str, datapath: str | Path, download: bool = True) -> Path:
    """The folder of benchmark `name` (a key of SOURCES) under `datapath`, fetched first if it is missing.

    With `download=False` (`--no-download`) no network is used; an archive saved by hand is unpacked even so.

    Raises:
        UserError: it is missing and cannot be had; says which address to save as which file.
    """
    source = SOURCES[name]
    home = Path(datapath) / source.folder
    work = home.with_name(f".{source.folder}.download")
    by_hand = home.with_name(f"{source.folder}.tar.gz")
    advice = f"download {' or '.join(source.urls)} by hand, save it as {by_hand} and run again"
    if not home.is_dir():
        if home.exists() or home.is_symlink():
            raise UserError(f"{home} is not a folder: move it away and run again")
        if not download and not by_hand.exists():
            raise UserError(
                f"{home} is missing and downloads are off: run without --no-download, or {advice}"
            )
        with storage_errors(home), alone(home):
            if not home.is_dir():
                _install(source, home, work, by_hand, advice)
    if work.exists():  # of this run, or of one that was killed as it ended
        with suppress(OSError), alone(home):
            shutil.rmtree(work, ignore_errors=True)
    return home


def _install(source: Source, home: Path, work: Path, by_hand: Path, advice: str) -> None:
    """Unpack the archive saved by hand, else that of the first source that gives a good one."""
    archives = {url: work / f"{number}.tar.gz" for number, url in enumerate(source.urls)}
    if by_hand.exists():
        archives = {str(by_hand): by_hand}
    unpacked = work / "unpacked"
    reasons = []
    work.mkdir(exist_ok=True)
    try:
        for origin, archive in archives.items():
            try:
                if not archive.exists():
                    transfer(origin, archive)
                shutil.rmtree(unpacked, ignore_errors=True)  # of a killed run, or of another source
                unpack(archive, source.folder, unpacked)
                if not (unpacked / source.folder / source.proof).is_file():
                    raise UserError(f"holds no {source.folder}/{source.proof}")
            except UserError as error:
                reasons.append(f"{origin} {error}")
                if archive != by_hand:
                    archive.unlink(missing_ok=True)
            else:
                (unpacked / source.folder).rename(home)
                return
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
        if not any(work.iterdir()):
            work.rmdir()
    raise UserError(f"{home} is missing ({'; '.join(reasons)}): {advice}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Fetch a benchmark into the data folder, unless it is there."
    )
    parser.add_argument("--benchmark", required=True, choices=SOURCES)
    parser.add_argument("--datapath", default="../Datasets_DHPF", help="data folder (default %(default)s)")
    options = parser.parse_args()
    try:
        print(ensure(options.benchmark, options.datapath))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
