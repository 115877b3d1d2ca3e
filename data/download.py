"""Fetch a missing benchmark into the data folder: afterwards it is there whole, or not at all.

While PF-PASCAL, say, is fetched, all of it lies in the hidden folder `.PF-PASCAL.download` beside its place:
the download (an interrupted one stays, and the next run goes on from it) and the unpacked files, which are
renamed into place at the end; meanwhile `.PF-PASCAL.lock` keeps other processes waiting.  An archive saved by
hand as `PF-PASCAL.tar.gz` in the data folder is unpacked without any network, and left where it is.
"""

import argparse
import glob
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from filelock import FileLock
from tqdm import tqdm
from urllib3.exceptions import HTTPError as TransferError

from dhpf.common.errors import UserError
from dhpf.data.archive import is_markup, unpack

TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 2.0, 4.0)  # seconds before each further attempt; progress starts the row anew
DRIVE = "https://drive.google.com/uc?id="


class Source(NamedTuple):
    """A benchmark's folder, a file that it must hold, the addresses of its archive in the order tried."""

    folder: str
    proof: str
    urls: tuple[str, ...]


# Method, section 9.  Of what the owners serve themselves only SPair-71k's has this layout.
SOURCES = {
    "pfpascal": Source("PF-PASCAL", "test_pairs.csv", (DRIVE + "1OOwpGzJnTsFXYh-YffMQ9XKM_Kl_zdzg",)),
    "pfwillow": Source("PF-WILLOW", "test_pairs.csv", (DRIVE + "1tDP0y8RO5s45L-vqnortRaieiWENQco_",)),
    "caltech": Source(
        "Caltech-101", "test_pairs_caltech_with_category.csv", (DRIVE + "1IV0E5sJ6xSdDyIvVSTdZjPHELMwGzsMn",)
    ),
    "spair": Source(
        "SPair-71k",
        "Layout/large/test.txt",
        (
            DRIVE + "1KSvB0k2zXA06ojWNvFjBv0Ake426Y76k",
            "https://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz",
        ),
    ),
}


def ensure(name: str, datapath: str | Path, download: bool = True) -> Path:
    """The folder of benchmark `name` (a key of SOURCES) under `datapath`, fetched first if it is missing.

    With `download=False` (`--no-download`) no network is used; an archive saved by hand is unpacked even so.

    Raises:
        UserError: it is missing and cannot be had; says which address to save as which file.
    """
    source = SOURCES[name]
    home = Path(datapath) / source.folder
    work = home.with_name(f".{source.folder}.download")
    by_hand = home.with_name(f"{source.folder}.tar.gz")
    advice = f"download {' or '.join(source.urls)} by hand, save it as {by_hand} and run again"
    if not home.is_dir():
        if home.exists() or home.is_symlink():
            raise UserError(f"{home} is not a folder: move it away and run again")
        if not download and not by_hand.exists():
            raise UserError(
                f"{home} is missing and downloads are off: run without --no-download, or {advice}"
            )
        with _storage_errors(home), _alone(home):
            if not home.is_dir():
                _install(source, home, work, by_hand, advice)
    shutil.rmtree(work, ignore_errors=True)
    return home


def fetch(url: str, destination: str | Path) -> Path:
    """Download one file from a server or from Google Drive (`.../uc?id=`, `.../file/d/`), unless it is there.

    An interrupted download goes on where it stopped; `destination` appears only when it is complete.

    Raises:
        UserError: names the address, the reason and the file to save it as.
    """
    destination = Path(destination)
    with _storage_errors(destination), _alone(destination):
        if not destination.exists():
            try:
                _transfer(url, destination)
            except UserError as error:
                raise UserError(f"{url} {error}: download it by hand, save it as {destination}") from error
    return destination


def _install(source: Source, home: Path, work: Path, by_hand: Path, advice: str) -> None:
    """Unpack the archive saved by hand, else that of the first source that gives a good one."""
    fetched, unpacked = work / by_hand.name, work / "unpacked"
    origins = {str(by_hand): by_hand} if by_hand.exists() else dict.fromkeys(source.urls, fetched)
    reasons = []
    work.mkdir(exist_ok=True)
    try:
        for origin, archive in origins.items():
            try:
                if not archive.exists():
                    _transfer(origin, archive)
                shutil.rmtree(unpacked, ignore_errors=True)  # of a killed run, or of another source
                unpack(archive, source.folder, unpacked)
                if not (unpacked / source.folder / source.proof).is_file():
                    raise UserError(f"holds no {source.folder}/{source.proof}")
            except UserError as error:
                reasons.append(f"{origin} {error}")
                fetched.unlink(missing_ok=True)
            else:
                (unpacked / source.folder).rename(home)
                return
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
        if not any(work.iterdir()):
            work.rmdir()
    raise UserError(f"{home} is missing ({'; '.join(reasons)}): {advice}")


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`; once it is there nobody needs the lock file any more."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = target.with_name(f".{target.name}.lock")
    with FileLock(lock):
        yield
        if target.exists():
            lock.unlink(missing_ok=True)


@contextmanager
def _storage_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.filename or target}: {error.strerror or error}"
        raise UserError(
            f"{target} could not be written ({reason}): make room, or choose another folder"
        ) from error


def _transfer(url: str, destination: Path) -> None:
    """Download `url` and put it in place as `destination`; a UserError's message completes "<url> ..."."""
    print(f"downloading {url}", file=sys.stderr)
    get = _from_drive if urlsplit(url).hostname == "drive.google.com" else _from_server
    complete = get(url, destination)
    if is_markup(complete):
        complete.unlink()
        raise UserError("sent a web page instead of the file")
    complete.replace(destination)


def _from_drive(url: str, destination: Path) -> Path:
    """Download to `<destination>.drive`; gdown keeps an interrupted one as `<destination>.drive*.part`."""
    import gdown  # slow to import, and seldom needed

    complete = Path(f"{destination}.drive")
    options: dict[str, Any] = {
        "use_cookies": False,
        "resume": True,
        "timeout": TIMEOUT,
        "retries": len(PAUSES),
    }
    try:
        gdown.download(url, str(complete), quiet=not sys.stderr.isatty(), **options)
    except requests.RequestException as error:
        raise UserError(_reason(error)) from error
    except OSError:
        raise
    except Exception as error:  # gdown reads Google's pages: when they change, anything can come
        cause = error.__cause__
        if isinstance(cause, requests.RequestException):
            raise UserError(_reason(cause)) from error
        if type(error) is gdown.exceptions.DownloadError:  # the server does not go on from what there is
            for part in destination.parent.glob(f"{glob.escape(complete.name)}*.part"):
                part.unlink()
        raise UserError(f"gave no file ({' '.join(str(error).split())[:200]})") from error
    return complete


def _from_server(url: str, destination: Path) -> Path:
    """Download to `<destination>.partial`, going on from an interrupted one if the file is still the same."""
    partial = Path(f"{destination}.partial")
    note = Path(f"{partial}.json")
    failures, best = 0, _size(partial)
    while True:
        try:
            _attempt(url, partial, note)
        except (requests.RequestException, TransferError) as error:
            failures = 1 if _size(partial) > best else failures + 1
            best = max(best, _size(partial))
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if failures > len(PAUSES) or (status < 500 and status not in (408, 429)):
                raise UserError(_reason(error)) from error
            time.sleep(PAUSES[failures - 1])
        else:
            note.unlink(missing_ok=True)
            return partial


def _attempt(url: str, partial: Path, note: Path) -> None:
    """One request for what `partial` lacks of `url`; `note` says of which version of the file it is."""
    try:
        known = json.loads(note.read_text())
    except (FileNotFoundError, ValueError):  # none, or cut in half by a kill
        known = {}
    held = _size(partial) if known.get("url") == url else 0
    if held and held == known["size"]:
        return
    headers = {"Accept-Encoding": "identity"}
    if held:
        headers |= {"Range": f"bytes={held}-", **({"If-Range": known["etag"]} if known["etag"] else {})}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        seen = {"url": url, **_version(response)}
        resumed = held > 0 and response.status_code == 206
        starts = response.headers.get("Content-Range", "").startswith(f"bytes {held}-")
        if (held and response.status_code == 416) or (resumed and not (starts and seen == known)):
            partial.unlink()
            raise requests.ConnectionError("the file has changed on the server")
        response.raise_for_status()
        if not resumed:
            partial.unlink(missing_ok=True)  # first, so that the note never speaks of other bytes
            note.write_text(json.dumps(seen))
            held = 0
        bar = tqdm(total=seen["size"], initial=held, unit="B", unit_scale=True, disable=None)
        with partial.open("ab") as out, bar:
            # Undecoded: some servers call a .tar.gz a compressed .tar.
            for chunk in response.raw.stream(1 << 16, decode_content=False):
                out.write(chunk)
                bar.update(len(chunk))
    if seen["size"] is not None and _size(partial) != seen["size"]:
        raise requests.ConnectionError("cut off")


def _version(response: requests.Response) -> dict[str, Any]:
    """Strong validator ('' if none) and size in bytes (None if unknown) of the whole file."""
    etag = response.headers.get("ETag", "W/")
    total = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
    size = total[1] if total else response.headers.get("Content-Length")
    return {
        "etag": response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag,
        "size": int(size) if size else None,
    }


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"answered HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"gave no answer within {TIMEOUT:g} s"
    return f"could not be reached, or broke off ({type(error).__name__})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Fetch a benchmark into the data folder, unless it is there."
    )
    parser.add_argument("--benchmark", required=True, choices=SOURCES)
    parser.add_argument("--datapath", default="../Datasets_DHPF", help="data folder (default %(default)s)")
    options = parser.parse_args()
    try:
        print(ensure(options.benchmark, options.datapath))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
