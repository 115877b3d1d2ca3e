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

from filelock import FileLock, Timeout
from tqdm import tqdm

from dhpf.common.errors import UserError
from dhpf.common.files import describe_content
from dhpf.common.files import sha256 as sha256_of

DRIVE = "https://drive.google.com/uc?id="
MIRROR = "DHPF_MIRROR"  # environment variable: a folder or an address that is asked before the public sources


@dataclass(frozen=True)
class Limits:
    """What a server may take, in seconds, before it is given up.

    Args:
        connect: until it accepts a connection.
        silence: without a byte.
        chunk: for the next 512 KiB, gdown's chunk, or the end of the file: some 4 KiB/s by default.
        pause: before a broken connection is made again.
        tries: connections to one server; it is given up earlier after two that brought nothing.
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
    the others wait. What is not good never appears at `destination`.

    Args:
        check: called with the complete file, still in a hidden folder; raises UserError if it is not good.
        size: bytes.
        sha256: in hexadecimal, or its beginning. Only with it an interrupted download goes on in the next run:
            nothing else tells whether the bytes are of the same file.
    Raises:
        UserError: names the addresses, the reason of each (or what `check` raised) and the file to save it as.
    """
    destination = Path(destination)
    work = destination.with_name(f".{destination.name}.download")
    sources = with_mirror([urls] if isinstance(urls, str) else urls, destination.name)
    reasons = []
    with storage_errors(destination), exclusive(destination):
        if not destination.exists():
            if not sha256:
                shutil.rmtree(work, ignore_errors=True)
            work.mkdir(exist_ok=True)
            try:
                for number, url in enumerate(sources):
                    complete = work / f"{number}-{destination.name}"
                    try:
                        transfer(url, complete, size, sha256, limits)
                        if check:
                            check(complete)
                    except UserError as error:
                        reasons.append(f"{url}: {error}")
                        complete.unlink(missing_ok=True)
                    else:
                        complete.chmod(0o644)  # gdown's are the user's alone; a cache may be shared
                        complete.rename(destination)
                        break
                else:
                    raise UserError(f"{'; '.join(reasons)}: download it by hand, save it as {destination}")
            finally:
                if destination.exists() or not sha256:
                    shutil.rmtree(work, ignore_errors=True)
    return destination


def with_mirror(urls: Sequence[str], name: str, mirror: str | None = None) -> list[str]:
    """Addresses of a file, first in the mirror if there is one (None: that of the environment)."""
    mirror = os.environ.get(MIRROR, "") if mirror is None else mirror
    return [f"{mirror.rstrip('/')}/{name}", *urls] if mirror else list(urls)


def transfer(
    url: str, target: Path, size: int | None = None, sha256: str | None = None, limits: Limits = LIMITS
) -> None:
    """Download `url`, or copy it if it is a path, to `target`, and compare size and hash.

    Goes on from what an interrupted call left beside it as `<target>*.part`.
    Raises: UserError: the message completes "<url>: ...".
    """
    if "://" in url:
        _download(url, target, limits)
    elif Path(url).is_file():
        shutil.copyfile(url, target)
    else:
        raise UserError("there is no such file")
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
    """Download from the network, and go on after broken connections. Raises: UserError: the server is given up."""
    print(f"downloading {url}", file=sys.stderr)
    in_vain, reason = 0, ""
    for attempt in range(limits.tries):
        if attempt:
            time.sleep(limits.pause)
        held = _bytes_held(target)
        reason = _attempt(url, target, limits)
        if not reason:
            return
        in_vain = 0 if _bytes_held(target) > held else in_vain + 1
        if in_vain == 2 or (in_vain and not held):
            break
    raise UserError(reason)


def _attempt(url: str, target: Path, limits: Limits) -> str:
    """Download through one connection; returns why it broke off, empty if it is complete.

    gdown runs in a thread, which is left behind where it does not heed the end: a wait for a name or a handshake.
    Raises: UserError: another attempt would end alike.
    """
    import gdown  # slow to import, and seldom needed
    import requests
    from urllib3.exceptions import ReadTimeoutError

    cancel, progress_time = threading.Event(), time.monotonic()
    errors: list[BaseException] = []
    bar = tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=target.name, disable=None)

    def report(done: int, total: int | None) -> None:
        nonlocal progress_time
        progress_time, bar.total = time.monotonic(), total
        bar.update(done - bar.n)

    def download() -> None:
        try:
            gdown.download(
                url,
                str(target),
                quiet=True,
                use_cookies=False,  # it would write them to the home folder
                resume=True,
                timeout=(limits.connect, limits.silence),
                progress=report,
                cancel=cancel,
            )
        except BaseException as error:
            errors.append(error)

    with bar:
        thread = threading.Thread(target=download, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.1)
                if time.monotonic() - progress_time > limits.chunk:
                    raise UserError(f"sent next to nothing for {limits.chunk:g} s")
        finally:
            cancel.set()
            thread.join(1)
    if not errors:
        return ""
    [error] = errors
    cause = error if isinstance(error, requests.RequestException) else error.__cause__
    if isinstance(cause, requests.HTTPError) and cause.response is not None:
        raise UserError(f"answered HTTP {cause.response.status_code} {cause.response.reason}") from error
    if isinstance(cause, requests.Timeout) or isinstance(
        (*getattr(cause, "args", ()), None)[0], ReadTimeoutError
    ):
        raise UserError(
            f"gave no answer within {limits.connect:g} s, or no byte for {limits.silence:g} s"
        ) from error
    if isinstance(cause, requests.RequestException):
        return f"could not be reached, or broke off ({type(cause).__name__})"
    if type(error) is gdown.DownloadError and _bytes_held(target):
        for part in _parts(target):  # the server cannot go on from it
            part.unlink()
        return "cannot go on with a part of the file"
    if isinstance(error, OSError) or not isinstance(error, Exception):
        raise error
    # gdown reads Google's pages: when they change, anything can come
    raise UserError(f"gave no file ({' '.join(str(error).split())[:200]})") from error


def _parts(target: Path) -> list[Path]:
    """What gdown has of an incomplete file."""
    return list(target.parent.glob(f"{glob.escape(target.name)}*.part"))


def _bytes_held(target: Path) -> int:
    return sum(part.stat().st_size for part in _parts(target))


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`; once it is there nobody needs the lock file any more."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=2)
    except Timeout:
        print(f"waiting for another process that makes {target}", file=sys.stderr)
        lock.acquire()
    try:
        yield
        if target.exists():
            path.unlink(missing_ok=True)
    finally:
        lock.release()


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
