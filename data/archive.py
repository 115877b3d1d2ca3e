"""Unpack a data set's .tar.gz from the network: read and checked to its end first, plain files only."""

import errno
import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from dhpf.common.download import is_markup
from dhpf.common.errors import UserError

MAX_MEMBERS = 200_000  # SPair-71k, the largest benchmark, has some 77,000 files
MAX_BYTES = 16 << 30  # unpacked
MAX_HEADER = 1 << 20  # bytes that one read of tarfile may ask for


def unpack(archive: Path, folder: str, target: Path) -> None:
    """Unpack `archive`, which must hold the one top folder `folder`, into the new folder `target`.

    Raises:
        UserError: damaged, cut off, unsafe or another archive; the message completes "<archive> ...".
        OSError: no room for it, or no right to write; nothing else is left then than part of `target`.
    """
    with _opened(archive) as tar:
        sizes = [member.size for member in _vetted(tar, folder)]
    target.mkdir()
    if shutil.disk_usage(target).free < sum(sizes):
        raise OSError(errno.ENOSPC, f"{sum(sizes) / 1e9:.1f} GB needed", str(target))
    with _opened(archive) as tar:
        for member in tqdm(_vetted(tar, folder), total=len(sizes), desc=f"unpacking {folder}", disable=None):
            tar.extract(member, target, filter="data")


class _BoundedGzip(gzip.GzipFile):
    """Bounds what a header can make tarfile read; keeps the last piece, as tarfile hides a damaged header."""

    last = b""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER or self.tell() > MAX_BYTES:
            raise tarfile.ReadError("more data than a data set has")
        self.last = super().read(size)
        return self.last


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """The archive, for going through its members in order; then reads on to the checksum at its end."""
    try:
        with _BoundedGzip(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            yield tar
            if stream.last.strip(b"\0"):
                raise tarfile.ReadError("damaged header")
            while stream.read(MAX_HEADER):
                pass
    except gzip.BadGzipFile as error:
        kind = "a web page" if is_markup(archive) else f"damaged or no .tar.gz ({error})"
        raise UserError(f"is {kind}") from error
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"is damaged or cut off ({error})") from error
    except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise UserError(f"names {error.filename} both as a file and as a folder") from error


def _vetted(tar: tarfile.TarFile, folder: str) -> Iterator[tarfile.TarInfo]:
    """The files and folders under the top folder `folder`; UserError at anything else but macOS's litter."""
    total = 0
    for count, member in enumerate(tar, 1):
        total += member.size
        if count > MAX_MEMBERS or total > MAX_BYTES or member.size < 0:
            raise UserError("unpacks to more files or bytes than a data set has")
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if not parts or parts[0] == "__MACOSX" or parts[-1].startswith("._") or parts[-1] == ".DS_Store":
            continue
        if member.name.startswith("/") or ".." in parts or "\0" in member.name:
            raise UserError(f"is unsafe: {member.name!r} leaves its folder")
        if not (member.isreg() or member.isdir()):
            raise UserError(f"is unsafe: {member.name!r} is a link or a device")
        if parts[0] != folder:
            raise UserError(f"holds {parts[0]!r} where the one folder {folder!r} should be")
        yield member
