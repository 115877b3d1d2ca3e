"""Unpack archives, zip or tar, also one in another: within bounds, and no file outside the target."""

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from dhpf.common.errors import UserError
from dhpf.common.files import MIB

MAX_MEMBERS = 400_000  # AP-10K, prepared, has some 340,000 files
MAX_BYTES = 16 << 30  # unpacked, of one archive
LITTER = re.compile(r"(^|/)(__MACOSX(/|$)|\._|\.DS_Store$)")
SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"}  # of archives in archives
OPENERS: dict[bytes, Callable[[Path], IO[bytes]]] = {
    b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]
    b"BZh": bz2.open,  # type: ignore[dict-item]
    b"\xfd7zXZ": lzma.open,  # type: ignore[dict-item]
}
# What damaged archives raise; RuntimeError: a password is needed.
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
)


def is_archive(path: Path) -> bool:
    """Whether a file begins like an archive, whatever its name is."""
    with path.open("rb") as file:
        head = file.read(262)
    return head.startswith((b"PK\x03\x04", *OPENERS)) or head[257:] == b"ustar"


def member_names(path: Path) -> Iterator[str]:
    """The paths in an archive, as far as it can be read."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from archive.namelist()
        else:
            with tarfile.open(path) as tar:
                yield from (member.name for member in tar)
    except DAMAGE:
        return


def unpack(archive: Path, target: Path, wanted: str = "", depth: int = 1) -> None:
    """Unpack `archive`, and archives in it to a `depth`, into the folder `target`.

    Args: wanted: pattern of the paths that are unpacked; empty: all but what macOS adds.
    Raises:
        UserError: damaged, cut off, unsafe or too large; the message completes "<archive> ...".
        OSError: no room for it, or no right to write. In both cases part of it may be in `target`.
    """
    target.mkdir(parents=True, exist_ok=True)
    members = size = 0

    def chosen(name: str, more: int) -> bool:
        nonlocal members, size
        members, size = members + 1, size + more
        if more < 0 or members > MAX_MEMBERS or size > MAX_BYTES:
            raise UserError("unpacks to more files or bytes than a data set has")
        return not LITTER.search(name) and bool(re.search(wanted, name))

    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for info in tqdm(zipped.infolist(), f"unpacking {archive.name}", disable=None):
                    if chosen(info.filename, info.file_size):
                        zipped.extract(info, target)
        else:
            with opened(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tqdm(tar, f"unpacking {archive.name}", disable=None):
                    if os.name == "nt":
                        member.name = member.name.replace(":", "_")  # no file name there has a colon
                    if chosen(member.name, member.size):
                        tar.extract(member, target, filter="data")
                while more := stream.read(MIB):  # to the checksum at the end
                    chosen("", len(more))
    except DAMAGE as error:
        raise UserError(f"is damaged, cut off or unsafe ({error})") from error
    for inner in [path for path in target.rglob("*") if depth and path.suffix in SUFFIXES and path.is_file()]:
        if is_archive(inner):
            unpack(inner, inner.parent, wanted, depth - 1)
            inner.unlink()


def opened(archive: Path) -> IO[bytes]:
    """The tar in a file that may be compressed."""
    with archive.open("rb") as file:
        head = file.read(8)
    for magic, opener in OPENERS.items():
        if head.startswith(magic):
            return opener(archive)
    return archive.open("rb")
