"""Names of images and folders, as lists, annotation programs and systems write them."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

from dhpf.common.errors import UserError

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """A name as a table of text can hold it: '?' for control characters, line ends and lone surrogates."""
    return UNPRINTABLE.sub("?", text)


def path_parts(name: str, least: int = 1) -> tuple[str, ...]:
    """The parts of an image's path as any system writes it, so that they lead into a folder and never out of it.

    Lists prefix paths with folders of other machines: drive, root, '.' and '..' are left out, and callers take the last
    parts.  Raises: UserError: there are fewer than `least`.
    """
    parts = [part for part in printable(name).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if parts and parts[0].endswith(":"):
        del parts[0]
    if len(parts) < least:
        raise UserError(f"'{name}' is not the path of an image{' in its folder' * (least > 1)}")
    return tuple(parts)


def folded(name: str) -> str:
    """A name in the form in which names are compared: whatever the case and the Unicode form (NFC) of its letters."""
    return unicodedata.normalize("NFC", name.casefold())


def common_suffix_length(given: Sequence[str], known: Sequence[str]) -> int:
    """How many of the last parts of two paths are the same; of the very last, `given` may lack the ending."""
    same = [a == b for a, b in zip(reversed(given), reversed(known), strict=False)]
    same[:1] = [given[-1] in (known[-1], PurePosixPath(known[-1]).stem)]
    return (*same, False).index(False)
