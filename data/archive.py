"""Unpack archives, zip or tar, also one in another: within bounds, and no file outside the target."""

import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile
from pathlib import Path

from tqdm import tqdm

from dhpf.common.errors import UserError

MAX_MEMBERS = 400_000  # AP-10K, prepared, has some 340,000 files
MAX_BYTES = 16 << 30  # unpacked, of one archive
LITTER = re.compile(r"(^|/)(__MACOSX(/|$)|\._|\.DS_Store$)")
SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"}  # of archives in archives
# What damaged archives raise; RuntimeError: a password is needed.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, BadGzipFile, zlib.error, lzma.LZMAError, EOFError, ValueError,
          OverflowError, RuntimeError)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether a file is an archive, whatever its name is."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def member_names(path: Path) -> Iterator[str]:
    """The paths in an archive, as far as it can be read."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped:
                yield from zipped.namelist()
        else:
            with tarfile.open(path) as tar:
                yield from (member.name for member in tar)
    except DAMAGE:
        return


def unpack(archive: Path, target: Path, wanted: str = "", depth: int = 1) -> None:
    """Unpack `archive`, and archives in it to a `depth`, into the folder `target`.

    Args: wanted: pattern of the paths that are unpacked; empty: all but what macOS adds.
    Raises:
        UserError: damaged, cut off, unsafe or too large; the message completes "<archive>: ...".
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
            # Past the zeros at the tar's end lies the compressed file's checksum.
            with tarfile.open(archive, ignore_zeros=True) as tar:
                for member in tqdm(tar, f"unpacking {archive.name}", disable=None):
                    if os.name == "nt":
                        member.name = member.name.replace(":", "_")  # no file name there has a colon
                    if chosen(member.name, member.size):
                        tar.extract(member, target, filter="data")
    except DAMAGE as error:
        raise UserError(f"damaged, cut off or unsafe ({error})") from error
    if not members:
        raise UserError("damaged, cut off or no archive")
    for inner in [path for path in target.rglob("*") if depth and path.suffix in SUFFIXES and path.is_file()]:
        if is_archive(inner):
            unpack(inner, inner.parent, wanted, depth - 1)
            inner.unlink()
