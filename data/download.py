"""Fetch a missing benchmark into the data folder: afterwards it is there whole, or not at all.

    python -m dhpf.data.download --benchmark all --datapath ../Datasets_DHPF --dry-run

What somebody saved by hand in the data folder is taken first, whatever its name is. Meanwhile everything lies in the
hidden folder `.PF-PASCAL.download` beside the benchmark's place: the downloads (an interrupted one stays, and the
next run goes on from it) and the unpacked files, which are renamed into place at the end; `.PF-PASCAL.lock` keeps
other processes waiting.
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from dhpf.common import __version__
from dhpf.common.download import LIMITS, MIRROR, Limits, exclusive, storage_errors, transfer, with_mirror
from dhpf.common.errors import UserError
from dhpf.data import BENCHMARKS, layout
from dhpf.data.archive import is_archive, member_names, unpack
from dhpf.data.benchmark import Benchmark
from dhpf.data.prepare_ap10k import prepare
from dhpf.data.sources import AP10K_CROWDS, PARTS, Part, Source, parts_of

DEPTH = 4  # folders of an archive in which a benchmark's may lie


def ensure(
    benchmark: type[Benchmark],
    datapath: str | Path,
    download: bool = True,
    split: str | None = None,
    mirror: str | None = None,
    limits: Limits = LIMITS,
) -> Path:
    """The folder of a benchmark under `datapath`, completed from what was saved by hand and from the network.

    Args:
        download: False (`--no-download`): no network is used.
        split: whose list is needed; lists of other splits are fetched with a missing folder, and only missed with a
            warning. None: all are needed; empty: none is.
        mirror: folder or address that is asked before the public sources; None: that of `DHPF_MIRROR`.
    Raises:
        UserError: something is missing and cannot be had; says which addresses were tried, and why each failed.
    """
    found = benchmark.folder_in(Path(datapath))
    home = found or Path(datapath) / benchmark.folder
    missing = [part for part in parts_of(benchmark) if not is_there(part, benchmark, home)]
    needed = [part for part in missing if split is None or part.split in ("", split)]
    if needed:
        if not home.is_dir() and (home.exists() or home.is_symlink()):
            raise UserError(f"{home} is not a folder: move it away and run again")
        with storage_errors(home), exclusive(home):
            installation = Installation(benchmark, Path(datapath), home, download, mirror, limits)
            installation.complete(missing if not found else needed, needed)
    work = home.with_name(f".{home.name}.download")
    if work.exists() and home.exists():  # of this run, or of one that was killed as it ended
        with suppress(OSError), exclusive(home):
            shutil.rmtree(work, ignore_errors=True)
    return home


def is_there(part: Part, benchmark: type[Benchmark], home: Path) -> bool:
    """Whether a benchmark's folder has a part."""
    if part.split:
        return bool(layout.lists_of(home, benchmark.lists, part.split))
    return (home / part.folders[0]).is_dir() if part.folders else home.is_dir()


class Installation:
    """Completes one benchmark's folder; arguments as those of `ensure`."""

    def __init__(
        self,
        benchmark: type[Benchmark],
        datapath: Path,
        home: Path,
        download: bool,
        mirror: str | None,
        limits: Limits,
    ) -> None:
        self.benchmark, self.datapath, self.home = benchmark, datapath, home
        self.download, self.limits = download, limits
        self.mirror = os.environ.get(MIRROR, "") if mirror is None else mirror
        self.work = home.with_name(f".{home.name}.download")
        self.staged = self.work / "staged" / benchmark.folder
        self.failures: dict[str, str] = {}  # of addresses

    def complete(self, missing: Sequence[Part], needed: Sequence[Part]) -> None:
        """Fetch the missing parts and put them into the benchmark's folder, all at once if that is not there.

        Raises: UserError: a needed part cannot be had.
        """
        self.work.mkdir(exist_ok=True)
        shutil.rmtree(self.staged, ignore_errors=True)  # of a killed run
        try:
            for part in missing:
                if any(is_there(part, self.benchmark, place) for place in (self.home, self.staged)):
                    continue  # came with another
                try:
                    if part.link_to:
                        self.link(part)
                    elif part.raw and all((self.home / name).is_dir() for name in part.raw):
                        self.place_folders(part, self.home)
                    else:
                        self.obtain(part, partial(self.place, part))
                except UserError as error:
                    if part in needed:
                        raise
                    print(f"warning: {error}", file=sys.stderr)
            merge(self.staged, self.home)
        finally:
            shutil.rmtree(self.staged.parent, ignore_errors=True)
            if not any(self.work.iterdir()):
                self.work.rmdir()

    def obtain(self, part: Part, use: Callable[[Path], None]) -> None:
        """Call `use` with the files that may hold a part, those saved by hand first, until it takes one.

        Raises: UserError: it takes none; names the reason of each.
        """
        reasons = []
        for origin, get in self.candidates(part):
            try:
                return use(get())
            except UserError as error:
                if "://" in origin:
                    print(f"{origin}: {error}", file=sys.stderr)
                if "://" in origin or not part.split:  # a list saved by hand may be another benchmark's
                    reasons.append(f"{origin}: {error}")
        if not self.download:
            reasons.append("downloads are off (--no-download)")
        urls = " or ".join(source.url for source in part.sources)
        raise UserError(
            f"{self.home}: it has no {part.title} ({'; '.join(reasons)}): download {urls} by hand, save it in "
            f"{self.datapath} under any name and run again{', or name a list with --list' if part.split else ''}"
        )

    def candidates(self, part: Part) -> Iterator[tuple[str, Callable[[], Path]]]:
        """Files that may hold a part: where each is from, and a function that fetches it."""
        for path in saved_by_hand(self.datapath, self.mirror, part):
            yield str(path), partial(Path, path)
        if self.download:
            for source, url in addresses(part, self.mirror):
                yield url, partial(self.fetched, source, url)

    def fetched(self, source: Source, url: str) -> Path:
        """The file of a source; it is fetched once. Raises: UserError: it cannot be had."""
        file = self.work / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{source.file_name}"
        if url in self.failures:
            raise UserError(self.failures[url])
        if not file.exists():
            try:
                transfer(url, file, source.size, source.sha256, self.limits)
            except UserError as error:
                self.failures[url] = str(error)
                raise
        return file

    def place(self, part: Part, file: Path) -> None:
        """Stage a part from a file. Raises: UserError: it holds no such part."""
        unpacked = self.work / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)  # of a killed run
        try:
            if is_archive(file):
                unpack(file, unpacked, part.telltale if part.split else "")
            else:
                unpacked.mkdir()
                shutil.copyfile(file, unpacked / "list.csv")
            if part.split:
                self.place_list(part.split, unpacked)
            else:
                self.place_folders(part, unpacked)
        except UserError:
            if file.parent == self.work and not part.split:
                file.unlink()
            raise
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)

    def place_folders(self, part: Part, unpacked: Path) -> None:
        """Stage the first unpacked folder that is the benchmark's, or prepare it from the raw set."""
        lists = [name.format(split=self.benchmark.test_split) for name in self.benchmark.lists]
        for folder in folders_below(unpacked, DEPTH):
            if part.folders:
                fits = all((folder / name).is_dir() for name in part.folders)
            else:
                fits = any((folder / name).exists() for name in lists)
            if fits:
                return merge(folder, self.staged)
            if part.raw and all((folder / name).is_dir() for name in part.raw):
                return self.obtain(AP10K_CROWDS, partial(prepare, folder, self.staged))
        wanted = " and ".join(part.folders) or f"a list of test pairs ({', '.join(lists)})"
        raise UserError(f"holds no folder with {wanted}")

    def place_list(self, split: str, unpacked: Path) -> None:
        """Stage the list whose pairs are the published ones of a split."""
        root = self.staged if self.benchmark.folder_in(self.staged) else self.home
        reasons = []
        for path in sorted(unpacked.rglob("*.csv")):
            try:
                dataset = self.benchmark(root, split, pair_list=path)
            except UserError as error:
                reasons.append(str(error))
                continue
            if dataset.is_published:
                self.staged.mkdir(parents=True, exist_ok=True)
                path.rename(self.staged / self.benchmark.lists[-1].format(split=split))
                return
            reasons.append(f"{path.name} is {dataset.notes[1].removeprefix('list: ')}")
        raise UserError("; ".join(reasons) or "holds no list of pairs")

    def link(self, part: Part) -> None:
        """Stage links to the folders of another benchmark; where links cannot be, reading looks there itself."""
        other = ensure(BENCHMARKS[part.link_to], self.datapath, self.download, "", self.mirror, self.limits)
        self.staged.mkdir(parents=True, exist_ok=True)
        for name in part.folders:
            with suppress(OSError):
                (self.staged / name).symlink_to(os.path.relpath(other / name, self.home))


def saved_by_hand(datapath: Path, mirror: str, part: Part) -> Iterator[Path]:
    """Files of the data folder, its folders and the mirror, if that is a folder, that hold a part."""
    telltale = re.compile(part.telltale, re.IGNORECASE)
    for place in (datapath, *([Path(mirror)] if mirror and "://" not in mirror else [])):
        for path in sorted([*place.glob("[!.]*"), *place.glob("[!.]*/[!.]*")]):
            if path.is_file() and (
                any(telltale.search(name) for name in member_names(path))
                if is_archive(path)
                else telltale.search(path.name)
            ):
                yield path


def addresses(part: Part, mirror: str) -> list[tuple[Source, str]]:
    """The sources of a part with their addresses, those in the mirror first."""
    mirrored = [(source, with_mirror((), source.file_name, mirror)) for source in part.sources]
    return [(source, url) for source, urls in mirrored if "://" in mirror for url in urls] + [
        (source, source.url) for source in part.sources
    ]


def folders_below(top: Path, depth: int) -> list[Path]:
    """A folder and those in it to a depth, the higher ones first."""
    levels = [[top]]
    for _ in range(depth):
        levels.append([inner for folder in levels[-1] for inner in layout.folders(folder)])
    return [folder for level in levels for folder in level]


def merge(source: Path, target: Path) -> None:
    """Move a folder to its place; what is there already stays."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    elif source.is_dir():
        for path in sorted(source.iterdir()):
            merge(path, target / path.name)


def table(benchmark: type[Benchmark], datapath: Path, mirror: str) -> Iterator[tuple[str, ...]]:
    """What is there of a benchmark and what would be fetched: benchmark, part, state, size, check, from where."""
    home = benchmark.folder_in(datapath) or datapath / benchmark.folder
    parts = parts_of(benchmark)
    for part in (*parts, *([AP10K_CROWDS] if any(part.raw for part in parts) else [])):
        start = (benchmark.name, part.title)
        whole = part if part is not AP10K_CROWDS else parts[0]
        if is_there(whole, benchmark, home):
            yield *start, "there", "", "", str(home)
        elif part.link_to:
            yield *start, "linked", "", "", BENCHMARKS[part.link_to].folder
        elif by_hand := next(saved_by_hand(datapath, mirror, part), None):
            yield *start, "saved by hand", f"{by_hand.stat().st_size / 1e6:.1f} MB", "", str(by_hand)
        else:
            for number, (source, url) in enumerate(addresses(part, mirror)):
                size = f"{source.size / 1e6:.1f} MB" if source.size else "unknown"
                published = benchmark.published.get(part.split)
                checked = "" if published is None else "its pairs" if published.digest else "number of pairs"
                state = "or" if number else "to fetch"
                yield *start, state, size, checked or ("SHA-256" if source.sha256 else "no hash"), url


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dhpf.data.download",
        description="Fetch a benchmark into the data folder, unless it is there.",
    )
    parser.add_argument("--version", action="version", version=f"DHPF {__version__}")
    parser.add_argument("--benchmark", required=True, choices=("all", *PARTS))
    parser.add_argument(
        "--datapath", type=Path, default=Path("../Datasets_DHPF"), help="data folder (default %(default)s)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what is there and what would be fetched"
    )
    parser.add_argument(
        "--from", dest="mirror", metavar="DIR_OR_URL", help=f"a mirror, asked first (default ${MIRROR})"
    )
    options = parser.parse_args(arguments)
    names = PARTS if options.benchmark == "all" else [options.benchmark]
    if options.dry_run:
        mirror = os.environ.get(MIRROR, "") if options.mirror is None else options.mirror
        head = ("benchmark", "part", "state", "size", "checked", "from")
        rows = [head, *(row for name in names for row in table(BENCHMARKS[name], options.datapath, mirror))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return 0
    failed = 0
    for name in names:
        try:
            print(ensure(BENCHMARKS[name], options.datapath, mirror=options.mirror))
        except UserError as error:
            failed = 2
            print(f"error: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
