"""Fetch a file from the network: it appears complete and checked, or not at all.

The transfer is gdown's, from Google Drive and from plain servers; it goes on from the bytes that an earlier call
left. Here it gets limits of time: a server that is silent or sends next to nothing is given up.
"""

import glob
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from dhpf.common.errors import UserError
from dhpf.common.files import describe_content
from dhpf.common.files import sha256 as sha256_of

DRIVE = "https://drive.google.com/uc?id="
MIRROR = "DHPF_MIRROR"  # environment variable: a folder or an address that is asked before the public sources


@dataclass(frozen=True)
class Limits:
    """When a server is given up.

    Args:
        connect, silence: seconds until it accepts a connection, and without a byte.
        chunk: seconds for each 512 KiB, gdown's chunk, and for the rest of the file: some 4 KiB/s by default.
        pause: seconds before a broken connection is made again, `tries` times at most.
    """

    connect: float = 10.0
    silence: float = 30.0
    chunk: float = 120.0
    pause: float = 3.0
    tries: int = 10


LIMITS = Limits()


def fetch(
    urls: str | Sequence[str],
    destination: str | Path,
    check: Callable[[Path], object] | None = None,
    size: int | None = None,
    sha256: str | None = None,
    limits: Limits = LIMITS,
) -> Path:
    """Download a file from the first of `urls` that gives a good one, unless it is there.

    A mirror (`DHPF_MIRROR`) is asked first, for a file of the destination's name. Of several processes one downloads,
    the others wait.

    Args:
        check: called with the complete file, still in a hidden folder; raises UserError if it is not good.
        size: bytes.
        sha256: in hexadecimal, or its beginning. Only with it an interrupted download goes on in the next run: nothing
            else tells whether the bytes are of the same file.
    Raises:
        UserError: names each address with its reason (or what `check` raised), and the file to save it as.
    """
    urls, destination = [urls] if isinstance(urls, str) else urls, Path(destination)
    mirror = os.environ.get(MIRROR)
    work = destination.with_name(f".{destination.name}.download")
    reasons: list[str] = []
    with storage_errors(destination), exclusive(destination):
        if not sha256:
            shutil.rmtree(work, ignore_errors=True)
        for url in [*([f"{mirror.rstrip('/')}/{destination.name}"] if mirror else []), *urls]:
            if destination.exists():
                break
            complete = work / f"{len(reasons)}-{destination.name}"
            work.mkdir(exist_ok=True)
            try:
                transfer(url, complete, size, sha256, limits)
                if check:
                    check(complete)
                complete.chmod(0o644)  # gdown's are the user's alone; a cache may be shared
                complete.rename(destination)
            except UserError as error:
                reasons.append(f"{url}: {error}")
                complete.unlink(missing_ok=True)
        if destination.exists() or not sha256:
            shutil.rmtree(work, ignore_errors=True)
        if not destination.exists():
            raise UserError(f"{'; '.join(reasons)}: download it by hand, save it as {destination}")
    return destination


def transfer(
    url: str, target: Path, size: int | None = None, sha256: str | None = None, limits: Limits = LIMITS
) -> None:
    """Download `url`, or copy it if it is a path, to `target`, and compare size and hash.

    Goes on from what an interrupted call left beside it as `<target>*.part`.
    Raises: UserError: the message completes "<url>: ...".
    """
    if "://" not in url:
        if not Path(url).is_file():
            raise UserError("there is no such file")
        shutil.copyfile(url, target)
    else:
        _download(url, target, limits)
    if found := describe_content(target):
        reason = f"sent {found} instead of the file"
    elif size is not None and target.stat().st_size != size:
        reason = f"sent {target.stat().st_size} bytes, not {size}"
    elif sha256 and not (found := sha256_of(target)).startswith(sha256):
        reason = f"sent another file: its SHA-256 is {found}, not {sha256}"
    else:
        return
    target.unlink()
    raise UserError(reason)


def _download(url: str, target: Path, limits: Limits) -> None:
    """Download from the network; a broken connection is made again as long as it brought something."""
    print(f"downloading {url}", file=sys.stderr)
    for _ in range(limits.tries):
        reason, got_on = _attempt(url, target, limits)
        if not reason:
            return
        if not got_on:
            break
        time.sleep(limits.pause)
    raise UserError(reason)


def _attempt(url: str, target: Path, limits: Limits) -> tuple[str, bool]:
    """Download through one connection; returns why it broke off, empty if it is complete, and whether it got on.

    Raises: UserError: another attempt would end alike.
    """
    import gdown  # slow to import, and seldom needed
    import requests
    from urllib3.exceptions import ReadTimeoutError

    cancel, bar = threading.Event(), tqdm(unit="B", unit_scale=True, desc=target.name, disable=None)
    timer, got_on = threading.Timer(limits.chunk, cancel.set), False

    def report(done: int, total: int | None) -> None:
        nonlocal timer, got_on
        got_on = True
        timer.cancel()
        timer = threading.Timer(limits.chunk, cancel.set)
        timer.start()
        bar.total = total
        bar.update(done - bar.n)

    timeout = (limits.connect, limits.silence)
    # Cookies would be written to the home folder.
    options: dict[str, Any] = {"resume": True, "quiet": True, "use_cookies": False}
    timer.start()
    try:
        with bar:
            gdown.download(url, str(target), timeout=timeout, progress=report, cancel=cancel, **options)
        return "", True
    except Exception as error:
        cause = error if isinstance(error, requests.RequestException) else error.__cause__
        reasons = (cause, *getattr(cause, "args", ()))
        if cancel.is_set():
            reason = f"sent next to nothing for {limits.chunk:g} s"
        elif isinstance(cause, requests.HTTPError) and cause.response is not None:
            reason = f"answered HTTP {cause.response.status_code} {cause.response.reason}"
        elif any(isinstance(each, requests.Timeout | ReadTimeoutError) for each in reasons):
            reason = f"gave no answer within {limits.connect:g} s, or no byte for {limits.silence:g} s"
        elif isinstance(cause, requests.RequestException):
            return f"could not be reached, or broke off ({type(cause).__name__})", got_on
        elif type(error) is gdown.DownloadError and (
            parts := list(target.parent.glob(f"{glob.escape(target.name)}*.part"))
        ):
            for part in parts:
                part.unlink()
            return "cannot go on with a part of the file", True
        elif isinstance(error, OSError):
            raise
        else:  # gdown reads Google's pages: when they change, anything can come
            reason = f"gave no file ({' '.join(str(error).split())[:200]})"
        raise UserError(reason) from error
    finally:
        timer.cancel()


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`; once it is there nobody needs the lock file any more."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    with FileLock(path):
        yield
        if target.exists():
            path.unlink(missing_ok=True)


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
