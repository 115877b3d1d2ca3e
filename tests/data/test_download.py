"""Downloads against a server on this machine: whole, wrong, broken off, killed, all at once."""

import errno
import gzip
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from dhpf.common import download as common
from dhpf.common.errors import UserError
from dhpf.data import download
from dhpf.data.pfpascal import PFPascal
from tests.helpers.archive_server import ArchiveServer, Page, archive_server
from tests.helpers.archives import ARCHIVE, FOLDER, TAR, is_whole

KILLS = 20
FORK = multiprocessing.get_context("fork")  # children have the imports, and what a test has patched
LARGE = gzip.compress(TAR.ljust(1_500_000, b"\0"), 0)  # gdown writes pieces of 512 KiB
SECONDS = 60  # longer than any child takes
CUT = 1_200_000  # bytes after which a connection breaks: two pieces are kept
PATIENT = common.Limits(pause=0.01)
QUICK = common.Limits(connect=2, silence=1, chunk=2, pause=0.01)


class Shapes(PFPascal):
    """A user's benchmark, with an archive."""

    name = "shapes"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    monkeypatch.setenv("NO_PROXY", "*")
    with archive_server() as running:
        yield running


@pytest.fixture
def datapath(tmp_path: Path) -> Path:
    return tmp_path / "parent" / "datasets"


def serve(server: ArchiveServer, monkeypatch: pytest.MonkeyPatch, *pages: Page) -> list[str]:
    """Make `pages` the sources of the benchmark, in order; their addresses."""
    urls = [f"{server.url}/{i}/{FOLDER}.tar.gz" for i in range(len(pages))]
    server.pages = {f"/{i}/{FOLDER}.tar.gz": page for i, page in enumerate(pages)}
    use_sources(monkeypatch, *urls)
    return urls


def use_sources(monkeypatch: pytest.MonkeyPatch, *urls: str) -> None:
    monkeypatch.setattr(Shapes, "archive", urls)


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_whole_or_absent(datapath: Path) -> bool:
    """Whole, or no data set and nothing unpacked that a user would see; nothing beside the data folder."""
    home = datapath / FOLDER
    assert is_whole(home) or not home.exists()
    assert {path.name for path in datapath.iterdir()} <= {f".{FOLDER}.lock", f".{FOLDER}.download", FOLDER}
    assert [path.name for path in datapath.parent.iterdir()] == [datapath.name]
    return home.exists()


def refused(datapath: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        download.ensure(Shapes, datapath, limits=QUICK, **options)
    return str(caught.value)


# ---- a benchmark -----------------------------------------------------------------------------------------


def test_full_disk_is_reported_and_the_download_kept(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", full)
        assert "No space left on device" in refused(datapath)
    assert not assert_whole_or_absent(datapath)
    assert is_whole(download.ensure(Shapes, datapath, limits=PATIENT))
    assert len(server.requests) == 1  # the download itself was good


# ---- servers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [Page(ARCHIVE, pause=9), Page(ARCHIVE, pause=0.1, piece=1), Page(ARCHIVE, hang=9)],
    ids=["silent after a while", "a byte now and then", "no answer"],
)
def test_a_server_that_does_not_get_on_is_given_up_for_the_next(server, monkeypatch, datapath, capsys, page):
    [url, _] = serve(server, monkeypatch, page, Page(ARCHIVE))
    start = time.monotonic()
    assert is_whole(download.ensure(Shapes, datapath, limits=QUICK))
    assert time.monotonic() - start < 9
    assert f"{url}: " in capsys.readouterr().err


def test_dropped_connection_is_resumed_and_in_the_next_run_too(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(LARGE, headers={"ETag": '"1"'}, cuts=[CUT, 0]))
    assert is_whole(download.ensure(Shapes, datapath, limits=PATIENT))
    assert server.requests[-1].range == "bytes=1048576-"
    shutil.rmtree(datapath)
    serve(server, monkeypatch, Page(LARGE, cuts=[CUT, 0, 0]))
    assert "broke off" in refused(datapath)
    assert not assert_whole_or_absent(datapath)
    assert is_whole(download.ensure(Shapes, datapath, limits=PATIENT))
    assert server.requests[-1].range == "bytes=1048576-"
    assert [path.name for path in datapath.iterdir()] == [FOLDER]


def leave(datapath: Path, content: bytes) -> None:
    """What an interrupted download from the first source leaves."""
    [url] = [url for url in Shapes.archive if "/0/" in url]
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{FOLDER}.tar.gz"
    part = datapath / f".{FOLDER}.download" / f"{name}abcdefgh.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)


def test_bytes_of_two_versions_or_sources_never_make_a_data_set(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE))
    leave(datapath, ARCHIVE[:20_000] + random.randbytes(20_000))
    assert "damaged" in refused(datapath)
    assert server.requests[-1].range == "bytes=40000-"
    assert not assert_whole_or_absent(datapath)
    serve(server, monkeypatch, Page(b"", status=403), Page(ARCHIVE))
    leave(datapath, random.randbytes(40_000))
    assert is_whole(download.ensure(Shapes, datapath, limits=PATIENT))
    assert server.requests[-1].range is None


# ---- a single file ---------------------------------------------------------------------------------------


def test_fetch_of_one_file_is_atomic_and_done_once(server, tmp_path):
    server.pages["/model.pt"] = Page(LARGE, cuts=[CUT, 0, 0])
    destination = tmp_path / "released" / "model.pt"
    with pytest.raises(UserError, match=r"model\.pt: .*save it as .*model\.pt"):
        common.fetch(f"{server.url}/model.pt", destination, limits=PATIENT)
    assert listing(tmp_path) == {"released", "released/.model.pt.lock"}
    for _ in range(2):
        common.fetch(f"{server.url}/model.pt", destination, limits=PATIENT)
    assert destination.read_bytes() == LARGE
    assert destination.stat().st_mode & 0o777 == 0o644
    assert listing(tmp_path) == {"released", "released/model.pt"}
    assert len(server.requests) == 4


def test_fetch_takes_the_first_address_whose_file_fits_and_goes_on_with_a_hash(server, tmp_path, monkeypatch):
    good = hashlib.sha256(LARGE).hexdigest()[:8]
    cut = Page(LARGE, cuts=[CUT, 0, 0])
    server.pages = {"/a": Page(b"<html>sign in</html>"), "/b": Page(b"other"), "/c": cut}
    urls = [f"{server.url}{path}" for path in server.pages]
    with pytest.raises(UserError) as caught:
        common.fetch(urls, tmp_path / "w.pth", sha256=good, limits=PATIENT)
    assert all(f"{url}: " in str(caught.value) for url in urls[:2])
    common.fetch(urls, tmp_path / "w.pth", sha256=good, limits=PATIENT)
    assert server.requests[-1].range == "bytes=1048576-"
    assert listing(tmp_path) == {"w.pth"}
    monkeypatch.setenv(common.MIRROR, str(tmp_path))
    (tmp_path / "mirrored").mkdir()
    assert common.fetch(urls[0], tmp_path / "mirrored/w.pth", limits=QUICK).read_bytes() == LARGE


# ---- Google Drive ----------------------------------------------------------------------------------------

QUOTA = "Too many users have viewed or downloaded this file recently."


def test_drive_quota_then_a_broken_download_then_the_rest_of_it(server, monkeypatch, datapath):
    request = requests.Session.request

    def local(self: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
        path = url.split("google.com", 1)[1] if "google.com" in url else url.removeprefix(server.url)
        return request(self, method, server.url + path, **options)

    def shows(page: str) -> None:
        server.pages["/uc"] = Page(page.encode(), headers={"Content-Type": "text/html; charset=utf-8"})

    monkeypatch.setattr(requests.Session, "request", local)
    use_sources(monkeypatch, common.DRIVE + "1OOwpGzJnTsFXYh-YffMQ9XKM_Kl_zdzg")
    cookies = datapath.parent.parent / "cookies.txt"
    monkeypatch.setattr(sys.modules["gdown.download"], "DEFAULT_COOKIES_FILE", str(cookies))
    shows(f'<p class="uc-error-subcaption">{QUOTA}</p>')
    message = refused(datapath)
    assert QUOTA in message
    assert f"1OOwpGzJnTsFXYh-YffMQ9XKM_Kl_zdzg by hand, save it in {datapath}" in message
    # A large file comes behind a warning that it was not scanned for viruses.
    shows(
        '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
        '<input type="hidden" name="id" value="1OO"><input type="hidden" name="confirm" value="t"></form>'
    )
    headers = {"Content-Type": "application/gzip", "Content-Disposition": 'attachment; filename="x.tar.gz"'}
    server.pages["/download"] = Page(LARGE, headers=headers, cuts=[CUT, 0, 0])
    assert "broke off" in refused(datapath)
    assert not assert_whole_or_absent(datapath)
    assert is_whole(download.ensure(Shapes, datapath, limits=PATIENT))
    assert server.requests[-1].range == "bytes=1048576-"
    assert not cookies.exists()


# ---- processes -------------------------------------------------------------------------------------------


def child(action: Callable[[], object]) -> Any:
    process = FORK.Process(target=action, daemon=True)
    process.start()
    return process


@pytest.mark.slow
def test_killed_at_any_step_the_data_set_is_whole_or_absent(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE))
    steps = FORK.Value("i", 0)

    def ensure(limit: int) -> None:
        """Fetch the benchmark, and be killed at the `limit`-th step on files or sockets."""

        def count(event: str, _: Any) -> None:
            if event == "open" or event.split(".")[0] in ("os", "shutil", "fcntl", "socket"):
                steps.value += 1
                if steps.value == limit:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        download.ensure(Shapes, datapath, limits=PATIENT)

    def run(limit: int) -> int | None:
        steps.value = 0
        process = child(lambda: ensure(limit))
        process.join(SECONDS)
        assert_whole_or_absent(datapath)
        shutil.rmtree(datapath / FOLDER, ignore_errors=True)
        return process.exitcode

    assert run(limit=0) == 0
    every, rng = steps.value, random.Random(0)
    some = rng.sample(range(1, every), min(KILLS, every - 1))
    for limit in (*some, *range(every - 4, every + 1)):  # the last steps are the renaming and the tidying
        assert run(limit) in (0, -signal.SIGKILL)
    assert is_whole(download.ensure(Shapes, datapath, limits=PATIENT))
    assert [path.name for path in datapath.iterdir()] == [FOLDER]


def test_processes_started_together_download_once(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE, pause=0.05))
    together = [child(lambda: download.ensure(Shapes, datapath, limits=PATIENT)) for _ in range(3)]
    for process in together:
        process.join(SECONDS)
    assert [process.exitcode for process in together] == [0, 0, 0]
    assert is_whole(datapath / FOLDER)
    assert len(server.requests) == 1
