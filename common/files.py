"""Files: written as a whole or not at all, read up to a bound."""

import codecs
import errno
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from dhpf.common.errors import UserError

MIB = 1024 * 1024


def replace_file(path: Path, content: bytes) -> None:
    """Write a file, its folder too, beside and rename it: a reader finds the old or the new one, never half.

    Raises:
        UserError: no room or no access; what was there stays.
    """
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            beside = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o644)  # a temporary file is its user's alone
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            if beside:
                beside.unlink(missing_ok=True)
        way = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another folder"
        raise UserError(
            f"{path}: cannot be written, a previous file is kept ({error.strerror}): {way}"
        ) from error


def is_file(path: Path) -> bool:
    """Whether there is such a file; there is none of a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def describe_content(path: Path) -> str:
    """What a file is instead of what its name says, where that is told easily."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(1024)
        if not head:
            return "an empty file"
        if head.startswith(b"version https://git-lfs"):
            return "a pointer of Git LFS, which 'git lfs pull' replaces by the file"
        if head.lstrip().startswith(b"<"):
            return "a web page"
    return ""


def read_bytes(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path}: the file cannot be read ({error.strerror})") from error
    if len(content) > limit:
        raise UserError(
            f"{path}: the file is larger than {limit // MIB} MiB, which such a file never is: replace it"
        )
    return content


def read_text(path: Path, limit: int) -> str:
    """A text file of at most `limit` bytes in UTF-8, or UTF-16 with or without a mark; any line ends become '\\n'."""
    content = read_bytes(path, limit)
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif 0 in content[:2]:  # half of a letter of a European language
        encoding = "utf-16-le" if content[1] == 0 else "utf-16-be"
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: the file is not text, save it as UTF-8 ({error.reason})"
        ) from error


def read_json(path: Path, limit: int) -> Any:
    """What a JSON file of at most `limit` bytes holds."""
    try:
        return json.loads(read_text(path, limit))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}), export it anew") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON that can be read ({error}), export it anew") from error


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
