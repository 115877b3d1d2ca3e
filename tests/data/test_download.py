"""Downloads against a server on this machine: whole, wrong, broken off, killed, all at once."""

import errno
import gzip
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gdown
import pytest
import requests

from dhpf.common import download as common
from dhpf.common.errors import UserError
from dhpf.data import BENCHMARKS, download
from dhpf.data.pfpascal import PFPascal
from tests.helpers.archive_server import ArchiveServer, Page, archive_server
from tests.helpers.archives import ARCHIVE, FOLDER, TAR, WHOLE, is_whole, tar_of

KILLS = 20
FORK = multiprocessing.get_context("fork")  # children have the imports, and what a test has patched
LARGE = gzip.compress(TAR.ljust(1_500_000, b"\0"), 0)  # gdown writes pieces of 512 KiB
SECONDS = 60  # longer than any child takes
CUT = 1_200_000  # bytes after which a connection breaks: two pieces are kept


@pytest.fixture(autouse=True)
def _stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request may leave this machine, and retries come at once."""
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"a request to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)  # of which gdown makes its pauses


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
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
    monkeypatch.setattr(PFPascal, "archive", urls)


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
        download.ensure(PFPascal, datapath, **options)
    return str(caught.value)


# ---- a benchmark -----------------------------------------------------------------------------------------


def test_missing_benchmark_is_fetched_once_and_nothing_else_is_left(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE))
    assert download.ensure(PFPascal, datapath) == datapath / FOLDER
    assert is_whole(datapath / FOLDER)
    assert [path.name for path in datapath.iterdir()] == [FOLDER]
    download.ensure(PFPascal, datapath)
    assert len(server.requests) == 1


@pytest.mark.parametrize("download", [False, True])
def test_without_network_the_message_says_what_to_save_where(monkeypatch, datapath, download):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{FOLDER}.tar.gz"
    use_sources(monkeypatch, url)
    message = refused(datapath, download=download)
    assert url in message
    assert str(datapath / f"{FOLDER}.tar.gz") in message
    assert listing(datapath) <= {f".{FOLDER}.lock"}


def test_archive_saved_by_hand_is_unpacked_without_network_and_kept(monkeypatch, datapath):
    use_sources(monkeypatch, "http://127.0.0.1:9/never")
    datapath.mkdir(parents=True)
    by_hand = datapath / f"{FOLDER}.tar.gz"
    by_hand.write_bytes(ARCHIVE[:-1000])
    assert str(by_hand) in refused(datapath, download=False)
    assert by_hand.exists()
    by_hand.write_bytes(ARCHIVE)
    assert is_whole(download.ensure(PFPascal, datapath, download=False))
    assert by_hand.read_bytes() == ARCHIVE


@pytest.mark.parametrize(("make", "code"), [(Path.mkdir, 0), (Path.touch, 2)], ids=["folder", "file"])
def test_the_command_says_where_it_is_or_what_to_do(monkeypatch, datapath, capsys, make, code):
    datapath.mkdir(parents=True)
    make(datapath / FOLDER)
    monkeypatch.setattr(sys, "argv", ["download", "--benchmark", "pfpascal", "--datapath", str(datapath)])
    assert download.main() == code
    assert listing(datapath) == {FOLDER}
    assert str(datapath / FOLDER) in capsys.readouterr()[code > 0]


def test_every_address_is_https():
    fetched = {name: of.archive for name, of in BENCHMARKS.items() if of.archive}
    assert set(fetched) >= {"pfpascal", "pfwillow", "caltech", "spair"}
    assert all(url.startswith("https://") for urls in fetched.values() for url in urls)


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page(b"", status=503), "503"),
        (Page(b"\n<!DOCTYPE html><title>Quota exceeded</title>"), "web page"),
        (Page(ARCHIVE[:-1000]), "cut off"),
        (Page(gzip.compress(tar_of(*WHOLE[1:]))), "list of test pairs"),
    ],
    ids=["refusal", "web page", "cut off", "other layout"],
)
def test_what_is_no_such_archive_is_named_and_removed(server, monkeypatch, datapath, page, reason):
    [url] = serve(server, monkeypatch, page)
    message = refused(datapath)
    assert reason in message
    assert url in message
    assert listing(datapath) == {f".{FOLDER}.lock"}
    serve(server, monkeypatch, page, Page(ARCHIVE))
    assert is_whole(download.ensure(PFPascal, datapath))
    assert [request.path[1] for request in server.requests] == ["0", "0", "1"]


def test_a_full_disk_leaves_nothing_but_the_download(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE))

    def extract(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", extract)
        assert "No space left on device" in refused(datapath)
    assert not assert_whole_or_absent(datapath)
    assert is_whole(download.ensure(PFPascal, datapath))
    assert len(server.requests) == 1  # the download itself was good


# ---- servers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"ETag": '"1"'}])
def test_dropped_connection_is_resumed(server, monkeypatch, datapath, headers):
    serve(server, monkeypatch, Page(LARGE, headers=headers, cuts=[CUT, 0]))
    assert is_whole(download.ensure(PFPascal, datapath))
    assert [request.range for request in server.requests] == [None, "bytes=1048576-", "bytes=1048576-"]


def test_next_run_resumes_where_the_last_one_gave_up(server, monkeypatch, datapath):
    monkeypatch.setattr(common, "RETRIES", 0)
    serve(server, monkeypatch, Page(LARGE, cuts=[CUT]))
    assert "broke off" in refused(datapath)
    assert not assert_whole_or_absent(datapath)
    assert is_whole(download.ensure(PFPascal, datapath))
    assert server.requests[-1].range == "bytes=1048576-"
    assert [path.name for path in datapath.iterdir()] == [FOLDER]


def leave(datapath: Path, content: bytes) -> None:
    """What an interrupted download from the first source leaves."""
    part = datapath / f".{FOLDER}.download" / "0.tar.gzabcdefgh.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)


@pytest.mark.parametrize(
    ("held", "page"),
    [
        (ARCHIVE[:40_000], Page(ARCHIVE, ranges=False)),
        (random.randbytes(90_000), Page(ARCHIVE)),
        (ARCHIVE, Page(ARCHIVE)),
    ],
    ids=["no ranges", "shorter than what is held", "nothing is missing"],
)
def test_what_cannot_be_resumed_is_fetched_anew(server, monkeypatch, datapath, held, page):
    leave(datapath, held)
    serve(server, monkeypatch, page)
    assert is_whole(download.ensure(PFPascal, datapath))
    assert [bool(request.range) for request in server.requests] == [False, True, False]


def test_bytes_of_two_versions_or_sources_never_make_a_data_set(server, monkeypatch, datapath):
    leave(datapath, random.randbytes(40_000))
    serve(server, monkeypatch, Page(ARCHIVE))
    refused(datapath)
    assert server.requests[-1].range == "bytes=40000-"
    leave(datapath, random.randbytes(40_000))
    serve(server, monkeypatch, Page(b"", status=403), Page(ARCHIVE))
    assert is_whole(download.ensure(PFPascal, datapath))
    assert server.requests[-1].range is None


# ---- a single file ---------------------------------------------------------------------------------------


def test_fetch_of_one_file_is_atomic_and_done_once(server, monkeypatch, tmp_path):
    monkeypatch.setattr(common, "RETRIES", 0)
    server.pages["/model.pt"] = Page(LARGE, cuts=[CUT])
    destination = tmp_path / "released" / "model.pt"
    with pytest.raises(UserError, match=r"model\.pt: .*save it as .*model\.pt"):
        common.fetch(f"{server.url}/model.pt", destination)
    assert listing(tmp_path) == {"released", "released/.model.pt.lock"}
    for _ in range(2):
        common.fetch(f"{server.url}/model.pt", destination)
    assert destination.read_bytes() == LARGE
    assert destination.stat().st_mode & 0o777 == 0o644
    assert listing(tmp_path) == {"released", "released/model.pt"}
    assert len(server.requests) == 2


def test_bytes_that_a_killed_fetch_has_left_are_not_trusted(server, tmp_path):
    left = tmp_path / ".model.pt.download" / "model.ptabcdefgh.part"
    left.parent.mkdir()
    left.write_bytes(random.randbytes(9))
    server.pages["/model.pt"] = Page(ARCHIVE)
    assert common.fetch(f"{server.url}/model.pt", tmp_path / "model.pt").read_bytes() == ARCHIVE
    assert listing(tmp_path) == {"model.pt"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.ReadTimeout("slow"), "no answer within"),
        (AssertionError("the page\nhas changed"), "the page has changed"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
    ids=["silent", "changed", "full disk"],
)
def test_what_gdown_raises_becomes_one_line(monkeypatch, datapath, error, reason):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(gdown, "download", fail)
    message = refused(datapath)
    assert reason in message
    assert "\n" not in message
    assert not assert_whole_or_absent(datapath)


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
        download.ensure(PFPascal, datapath)

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
    assert is_whole(download.ensure(PFPascal, datapath))
    assert [path.name for path in datapath.iterdir()] == [FOLDER]


def test_processes_started_together_download_once(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE, pause=0.05))
    together = [child(lambda: download.ensure(PFPascal, datapath)) for _ in range(3)]
    for process in together:
        process.join(SECONDS)
    assert [process.exitcode for process in together] == [0, 0, 0]
    assert is_whole(datapath / FOLDER)
    assert len(server.requests) == 1
