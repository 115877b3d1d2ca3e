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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dhpf.common import __version__
from dhpf.common.download import LIMITS, MIRROR, Limits, exclusive, storage_errors, transfer
from dhpf.common.errors import UserError
from dhpf.data import BENCHMARKS, layout
from dhpf.data.archive import is_archive, member_names, unpack
from dhpf.data.benchmark import Benchmark
from dhpf.data.prepare_ap10k import prepare
from dhpf.data.sources import AP10K_CROWDS, PARTS, Part, Source, parts_of


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
        split: whose list is needed, empty: of none; other lists come with a missing folder, or a warning. None: all
            are needed.
        mirror: folder or address that is asked before the public sources; None: that of `DHPF_MIRROR`.
    Raises:
        UserError: something is missing and cannot be had; says which addresses were tried, and why each failed.
    """
    mirror = os.environ.get(MIRROR, "") if mirror is None else mirror
    found = benchmark.find_folder(Path(datapath))
    home = found or Path(datapath) / benchmark.folder
    missing = [part for part in parts_of(benchmark) if not is_there(part, benchmark, home)]
    needed = [part for part in missing if split is None or part.split in ("", split)]
    installation = Installation(benchmark, Path(datapath), home, download, mirror, limits)
    if needed:
        if not home.is_dir() and (home.exists() or home.is_symlink()):
            raise UserError(f"{home} is not a folder: move it away and run again")
        with storage_errors(home), exclusive(home):
            installation.complete(needed if found else missing, needed)
    if installation.work.exists() and home.exists():  # of this run, or of one that was killed as it ended
        with suppress(OSError), exclusive(home):
            shutil.rmtree(installation.work, ignore_errors=True)
    return home


def is_there(part: Part, benchmark: type[Benchmark], home: Path) -> bool:
    """Whether a benchmark's folder has a part."""
    if part.split:
        return bool(layout.find_lists(home, benchmark.lists, part.split))
    return (home / part.folders[0]).is_dir() if part.folders else home.is_dir()


@dataclass
class Installation:
    """Completes one benchmark's folder, `home`; the other arguments are those of `ensure`."""

    benchmark: type[Benchmark]
    datapath: Path
    home: Path
    download: bool
    mirror: str
    limits: Limits
    failures: dict[str, UserError] = field(default_factory=dict)  # of addresses

    @property
    def work(self) -> Path:
        return self.home.with_name(f".{self.home.name}.download")

    @property
    def staged(self) -> Path:
        """What becomes the benchmark's folder."""
        return self.work / "staged" / self.benchmark.folder

    def complete(self, missing: Sequence[Part], needed: Sequence[Part]) -> None:
        """Fetch the missing parts and put them into the benchmark's folder, all at once if that is not there.

        Raises: UserError: a needed part cannot be had.
        """
        self.work.mkdir(exist_ok=True)
        shutil.rmtree(self.staged, ignore_errors=True)  # of a killed run
        try:
            for part in missing:
                try:
                    if any(is_there(part, self.benchmark, place) for place in (self.home, self.staged)):
                        continue  # it came with another
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
        for path in saved_by_hand(self.datapath, self.mirror, part):
            try:
                return use(path)
            except UserError as error:
                if not part.split:  # a list may be another benchmark's
                    reasons.append(f"{path}: {error}")
        for source, url in addresses(part, self.mirror) if self.download else ():
            try:
                return use(self.fetched(source, url))
            except UserError as error:
                reasons.append(f"{url}: {error}")
                print(reasons[-1], file=sys.stderr)
        if not self.download:
            reasons.append("downloads are off (--no-download, in Python download=False)")
        urls = " or ".join(source.url for source in part.sources)
        raise UserError(
            f"{self.home}: it has no {part.title} ({'; '.join(reasons)}): download {urls} by hand, save it in "
            f"{self.datapath} under any name and run again{', or name a list with --list' if part.split else ''}"
        )

    def fetched(self, source: Source, url: str) -> Path:
        """The file of a source; it is fetched once. Raises: UserError: it cannot be had."""
        file = self.work / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{source.file_name}"
        if url in self.failures:
            raise self.failures[url]
        if not file.exists():
            try:
                transfer(url, file, source.size, source.sha256, self.limits)
            except UserError as error:
                self.failures[url] = error
                raise
        return file

    def place(self, part: Part, file: Path) -> None:
        """Stage a part from a file. Raises: UserError: it holds no such part."""
        unpacked = self.work / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)  # of a killed run
        try:
            if part.split and not is_archive(file):
                unpacked.mkdir()
                shutil.copyfile(file, unpacked / "list.csv")
            else:
                unpack(file, unpacked, part.telltale if part.split else "")
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
        """Stage the highest unpacked folder that is the benchmark's, or prepare it from the raw set."""
        lists = [name.format(split=self.benchmark.test_split) for name in self.benchmark.lists]
        for folder in sorted([unpacked, *unpacked.rglob("*/")], key=lambda path: (len(path.parts), path)):
            inside = [(folder / name).is_dir() for name in part.folders]
            if all(inside) if inside else any((folder / name).exists() for name in lists):
                return merge(folder, self.staged)
            if part.raw and all((folder / name).is_dir() for name in part.raw):
                return self.obtain(AP10K_CROWDS, partial(prepare, folder, self.staged))
        wanted = " and ".join(part.folders) or f"a list of test pairs ({', '.join(lists)})"
        raise UserError(f"holds no folder with {wanted}")

    def place_list(self, split: str, unpacked: Path) -> None:
        """Stage the list whose pairs are the published ones of a split."""
        root = self.staged if self.benchmark.find_folder(self.staged) else self.home
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
        for path in filter(Path.is_file, sorted([*place.glob("[!.]*"), *place.glob("[!.]*/[!.]*")])):
            if telltale.search(path.name) or (
                is_archive(path) and any(map(telltale.search, member_names(path)))
            ):
                yield path


def addresses(part: Part, mirror: str) -> list[tuple[Source, str]]:
    """The sources of a part with their addresses, those in the mirror first."""
    mirrored = part.sources if "://" in mirror else ()
    return [
        *((source, f"{mirror.rstrip('/')}/{source.file_name}") for source in mirrored),
        *((source, source.url) for source in part.sources),
    ]


def merge(source: Path, target: Path) -> None:
    """Move a file or folder to its place; what is there already stays."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    elif source.is_dir():
        for path in sorted(source.iterdir()):
            merge(path, target / path.name)


def table(benchmark: type[Benchmark], datapath: Path, mirror: str) -> Iterator[tuple[str, ...]]:
    """What is there of a benchmark and what would be fetched: benchmark, part, state, size, check, from where."""
    home = benchmark.find_folder(datapath) or datapath / benchmark.folder
    for part in parts_of(benchmark):
        start = (benchmark.name, part.title)
        if is_there(part, benchmark, home):
            yield *start, "there", "", "", str(home)
        elif part.link_to:
            yield *start, "linked", "", "", BENCHMARKS[part.link_to].folder
        elif by_hand := next(saved_by_hand(datapath, mirror, part), None):
            yield *start, "saved by hand", f"{by_hand.stat().st_size / 1e6:.1f} MB", "", str(by_hand)
        else:
            wanted = addresses(part, mirror)
            for source, url in wanted + (addresses(AP10K_CROWDS, mirror) if part.raw else []):
                size = f"{source.size / 1e6:.1f} MB" if source.size else "unknown"
                published = benchmark.published.get(part.split)
                checked = "" if published is None else "its pairs" if published.digest else "number of pairs"
                yield *start, "to fetch", size, checked or ("SHA-256" if source.sha256 else "no hash"), url


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dhpf.data.download", description="Download missing parts of benchmarks."
    )
    parser.add_argument("--version", action="version", version=f"DHPF {__version__}")
    parser.add_argument("--benchmark", required=True, choices=("all", *PARTS))
    parser.add_argument("--datapath", default="../Datasets_DHPF", help="data folder (default %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="only show what is there and what is not")
    parser.add_argument(
        "--from",
        dest="mirror",
        default=os.environ.get(MIRROR, ""),
        metavar="DIR_OR_URL",
        help=f"a mirror that is asked first (default ${MIRROR})",
    )
    options = parser.parse_args(arguments)
    benchmarks = [BENCHMARKS[name] for name in PARTS if options.benchmark in ("all", name)]
    if options.dry_run:
        rows: list[tuple[str, ...]] = [("benchmark", "part", "state", "size", "checked", "from")]
        rows += [row for kind in benchmarks for row in table(kind, Path(options.datapath), options.mirror)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(map(str.ljust, row, widths)).rstrip())
        return 0
    failed = 0
    for benchmark in benchmarks:
        try:
            print(ensure(benchmark, options.datapath, mirror=options.mirror))
        except UserError as error:
            failed = 2
            print(f"error: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
