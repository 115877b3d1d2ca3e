"""Files that are there as a whole or not at all."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from dhpf.common.errors import UserError


def replace_file(path: Path, content: bytes) -> None:
    """Write a file, its folder too, beside and rename it: a reader finds the old or the new one, never half.

    Raises:
        UserError: no room or no access; what was there stays.
    """
    beside = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        way = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another folder"
        raise UserError(
            f"{path}: cannot be written, a previous file is kept ({error.strerror}): {way}"
        ) from error
