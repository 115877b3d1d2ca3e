"""Unpack a data set's archive from the network by tarfile's `data` filter, with a bound on its size."""

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

from tqdm import tqdm

from dhpf.common.errors import UserError
from dhpf.common.files import MIB, describe_content

MAX_MEMBERS = 200_000  # SPair-71k, the largest benchmark, has some 77,000 files
MAX_BYTES = 16 << 30  # unpacked
Member = TypeVar("Member")


def unpack(archive: Path, folder: str, target: Path) -> None:
    """Unpack a .tar.gz, which must hold the one top folder `folder`, into the new folder `target`.

    Raises:
        UserError: damaged, cut off, unsafe or another archive; the message completes "<archive> ...".
        OSError: no room for it, or no right to write.
        In both cases part of it may be left in `target`.
    """
    target.mkdir()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in checked_members(((m, m.name, m.size) for m in tar), folder):
                tar.extract(member, target, filter="data")
            while tar.fileobj and tar.fileobj.read(MIB):
                pass  # on to the checksum at the end
    except tarfile.FilterError as error:
        raise UserError(f"is unsafe ({error})") from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError) as error:
        content = describe_content(archive) or "damaged, cut off or no .tar.gz"
        raise UserError(f"is {content} ({error})") from error


def checked_members(members: Iterable[tuple[Member, str, int]], folder: str) -> Iterator[Member]:
    """Members of an archive, given with name and size, without what macOS adds.

    Raises: UserError: one is not in the top folder `folder`; there are more files or bytes than a data set has.
    """
    total = 0
    for count, (member, name, size) in enumerate(tqdm(members, f"unpacking {folder}", disable=None), 1):
        total += size
        if count > MAX_MEMBERS or total > MAX_BYTES:
            raise UserError(f"holds more than {MAX_MEMBERS} files or {MAX_BYTES >> 30} GiB")
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "__MACOSX" or parts[-1].startswith(("._", ".DS_Store")):
            continue
        if parts[0] != folder:
            raise UserError(f"holds '{name}' where the one folder '{folder}' should be")
        yield member
