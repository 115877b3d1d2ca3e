"""Fetch a file from the network: it appears complete and checked, or not at all.

The transfer is gdown's, from Google Drive and from plain servers.  It asks for the bytes as they are and, after a
broken connection, goes on with the same version of the file (If-Range) or gives up.
"""

import glob
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from dhpf.common.errors import UserError

if TYPE_CHECKING:
    import requests

TIMEOUT = 30.0  # seconds without a byte
RETRIES = 4  # after broken connections, with pauses of up to 1, 2, 4 and 8 s
DRIVE = "https://drive.google.com/uc?id="


def fetch(url: str, destination: str | Path, check: Callable[[Path], object] | None = None) -> Path:
    """Download one file from a server or from Google Drive (`.../uc?id=`, `.../file/d/`), unless it is there.

    Of several processes one does it, the others wait.  What fails `check` (called with the complete file, still in
    a hidden folder) never appears, and nothing of it is kept.

    Raises:
        UserError: names the address, the reason (or what `check` raised) and the file to save it as.
    """
    destination = Path(destination)
    work = destination.with_name(f".{destination.name}.download")
    complete = work / destination.name
    with storage_errors(destination), exclusive(destination):
        if not destination.exists():
            shutil.rmtree(work, ignore_errors=True)  # of a killed run: nothing tells the version of its bytes
            work.mkdir()
            try:
                transfer(url, complete)
                if check:
                    check(complete)
                complete.chmod(0o644)  # gdown's are the user's alone; a cache may be shared
                complete.rename(destination)
            except UserError as error:
                raise UserError(f"{url}: {error}: download it by hand, save it as {destination}") from error
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return destination


def transfer(url: str, target: Path) -> None:
    """Download `url` to `target`, going on from what an interrupted call left beside it as `<target>*.part`.

    gdown takes such a part for the same version of the file: only for files with a checksum inside.

    Raises:
        UserError: the message completes "<url> ...".
    """
    import gdown  # slow to import, and seldom needed
    import requests

    print(f"downloading {url}", file=sys.stderr)
    for first in (True, False):
        try:
            gdown.download(
                url,
                str(target),
                quiet=not sys.stderr.isatty(),
                use_cookies=False,  # it would write them to the home folder
                resume=True,
                timeout=TIMEOUT,
                retries=RETRIES,
            )
            break
        except Exception as error:  # gdown reads Google's pages: when they change, anything can come
            cause = error if isinstance(error, requests.RequestException) else error.__cause__
            if isinstance(cause, requests.RequestException):
                raise UserError(_reason(cause)) from error
            if isinstance(error, OSError):
                raise
            if not first or type(error) is not gdown.DownloadError:
                raise UserError(f"gave no file ({' '.join(str(error).split())[:200]})") from error
            for part in target.parent.glob(
                f"{glob.escape(target.name)}*.part"
            ):  # the server cannot go on from it
                part.unlink()
    if is_markup(target):
        target.unlink()
        raise UserError("sent a web page instead of the file")


def is_markup(path: Path) -> bool:
    """Whether the file is a web page: the usual answer of a file server that means no."""
    with path.open("rb") as stream:
        return stream.read(1024).lstrip().startswith(b"<")


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`; once it is there nobody needs the lock file any more."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    with FileLock(lock):
        yield
        if target.exists():
            lock.unlink(missing_ok=True)


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn an OSError on the way to `target` into a UserError."""
    try:
        yield
    except OSError as error:
        reason = f"{error.filename or target}: {error.strerror or error}"
        raise UserError(
            f"{target} could not be written ({reason}): make room, or choose another folder"
        ) from error


def _reason(error: "requests.RequestException") -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"answered HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"gave no answer within {TIMEOUT:g} s"
    return f"could not be reached, or broke off ({type(error).__name__})"
