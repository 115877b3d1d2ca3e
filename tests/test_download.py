"""Downloads against a server on this machine: whole, wrong, hostile, broken off, killed, all at once."""

import contextlib
import errno
import gzip
import io
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gdown
import pytest
import requests
from archive_server import ArchiveServer, Page, archive_server
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from dhpf.common.errors import UserError
from dhpf.data import archive, download

FOLDER = "PF-PASCAL"
FILES = {
    "test_pairs.csv": b"source_image,target_image,class\n",
    **{f"JPEGImages/{i}.jpg": random.Random(i).randbytes(7000) for i in range(12)},
}


def member(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


WHOLE = [member(f"{FOLDER}/{name}", content) for name, content in FILES.items()]
TAR = tar_of(*WHOLE)
ARCHIVE = gzip.compress(TAR, mtime=0)


@pytest.fixture(autouse=True)
def _stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request may leave this machine, and retries come at once."""
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"a request to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "PAUSES", (0.001, 0.001))


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
    monkeypatch.setitem(download.SOURCES, "pfpascal", download.Source(FOLDER, "test_pairs.csv", urls))


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def is_whole(home: Path) -> bool:
    files = {path for path in home.rglob("*") if not path.is_dir()}
    return {str(path.relative_to(home)): path.read_bytes() for path in files} == FILES


def assert_absent(datapath: Path) -> None:
    """No data set, nothing unpacked, nothing that a user would see, nothing beside the data folder."""
    assert {path.name for path in datapath.iterdir()} <= {f".{FOLDER}.lock", f".{FOLDER}.download"}
    assert not list(datapath.rglob("*.csv"))
    assert [path.name for path in datapath.parent.iterdir()] == [datapath.name]


def refused(datapath: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        download.ensure("pfpascal", datapath, **options)
    return str(caught.value)


# ---- what comes out --------------------------------------------------------------------------------------


def test_missing_benchmark_is_fetched_once_and_nothing_else_is_left(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE))
    assert download.ensure("pfpascal", datapath) == datapath / FOLDER
    assert is_whole(datapath / FOLDER)
    assert [path.name for path in datapath.iterdir()] == [FOLDER]
    download.ensure("pfpascal", datapath)
    assert len(server.requests) == 1


def test_a_folder_that_is_there_is_never_touched(monkeypatch, datapath):
    use_sources(monkeypatch)
    (datapath / FOLDER).mkdir(parents=True)
    assert download.ensure("pfpascal", datapath, download=False) == datapath / FOLDER
    assert listing(datapath) == {FOLDER}


@pytest.mark.parametrize("options", [{"download": False}, {}])
def test_without_network_the_message_says_what_to_save_where(monkeypatch, datapath, options):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{FOLDER}.tar.gz"
    use_sources(monkeypatch, url)
    message = refused(datapath, **options)
    assert url in message
    assert str(datapath / f"{FOLDER}.tar.gz") in message
    assert "\n" not in message
    if options:
        assert not datapath.exists()
    else:
        assert listing(datapath) <= {f".{FOLDER}.lock"}


def test_archive_saved_by_hand_is_unpacked_without_network_and_kept(monkeypatch, datapath):
    use_sources(monkeypatch, "http://127.0.0.1:9/never")
    datapath.mkdir(parents=True)
    by_hand = datapath / f"{FOLDER}.tar.gz"
    by_hand.write_bytes(ARCHIVE[:-1000])
    assert str(by_hand) in refused(datapath, download=False)
    assert by_hand.exists()
    by_hand.write_bytes(ARCHIVE)
    assert is_whole(download.ensure("pfpascal", datapath, download=False))
    assert by_hand.read_bytes() == ARCHIVE


def test_something_else_in_the_folders_place_is_reported_before_any_download(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE))
    datapath.mkdir(parents=True)
    (datapath / FOLDER).symlink_to("unmounted")
    assert "not a folder" in refused(datapath)
    assert not server.requests


def test_program_prints_the_folder_or_one_line_and_exits_with_2(server, monkeypatch, datapath, capsys):
    serve(server, monkeypatch, Page(ARCHIVE, failures=[404]))
    monkeypatch.setattr(sys, "argv", ["download", "--benchmark", "pfpascal", "--datapath", str(datapath)])
    assert download.main() == 2
    assert "HTTP 404" in capsys.readouterr().err.splitlines()[-1]
    assert download.main() == 0
    assert capsys.readouterr().out == f"{datapath / FOLDER}\n"


def test_every_benchmark_has_an_https_source_and_its_own_folder():
    assert {source.folder for source in download.SOURCES.values()} == {
        "PF-PASCAL", "PF-WILLOW", "Caltech-101", "SPair-71k",
    }  # fmt: skip
    for source in download.SOURCES.values():
        assert source.urls
        assert all(url.startswith("https://") for url in source.urls)


# ---- servers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "asked"), [(403, 1), (404, 1), (500, 3), (503, 3)])
def test_http_errors_are_named_and_only_passing_ones_retried(server, monkeypatch, datapath, status, asked):
    serve(server, monkeypatch, Page(ARCHIVE, status=status))
    assert f"HTTP {status}" in refused(datapath)
    assert len(server.requests) == asked
    assert_absent(datapath)


def test_passing_error_is_survived(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE, failures=[503, 429]))
    assert is_whole(download.ensure("pfpascal", datapath))


def test_silent_server_is_given_up(server, monkeypatch, datapath):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    monkeypatch.setattr(download, "PAUSES", ())
    serve(server, monkeypatch, Page(ARCHIVE, pause=0.5))
    assert "broke off" in refused(datapath)
    assert_absent(datapath)


def test_next_source_is_tried_after_a_refusal_or_a_bad_archive(server, monkeypatch, datapath):
    pages = [Page(b"", status=403), Page(ARCHIVE[:-1000]), Page(b"<html>later</html>"), Page(ARCHIVE)]
    serve(server, monkeypatch, *pages)
    assert is_whole(download.ensure("pfpascal", datapath))
    assert len(server.requests) == 4


@pytest.mark.parametrize("headers", [{}, {"ETag": '"1"'}, {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
def test_dropped_connections_are_resumed_without_fetching_a_byte_twice(
    server, monkeypatch, datapath, headers
):
    page = Page(ARCHIVE, headers=headers, cuts=[20_000, 0, 30_000, 10_000])
    serve(server, monkeypatch, page)
    assert is_whole(download.ensure("pfpascal", datapath))
    assert sum(request.length for request in server.requests) == len(ARCHIVE)
    assert [request.range for request in server.requests][-1] == "bytes=60000-"


def test_next_run_resumes_where_the_last_one_gave_up(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE, cuts=[40_000, 0, 0, 0]))
    assert "broke off" in refused(datapath)
    assert_absent(datapath)
    assert is_whole(download.ensure("pfpascal", datapath))
    assert server.requests[-1].range == "bytes=40000-"
    assert [path.name for path in datapath.iterdir()] == [FOLDER]


@pytest.mark.parametrize(
    "later",
    [
        Page(ARCHIVE, ranges=False),
        Page(ARCHIVE, headers={"ETag": '"2"'}),
        Page(ARCHIVE.ljust(90_000, b"\0"), headers={"ETag": '"2"'}, if_range=False),
        Page(ARCHIVE, headers={"ETag": '"1"'}),
        Page(gzip.compress(tar_of(*WHOLE[:3])), headers={"ETag": '"1"'}),
    ],
    ids=["no ranges", "other version", "If-Range ignored", "other size", "shorter than what is held"],
)
def test_what_cannot_be_resumed_is_fetched_anew(server, monkeypatch, datapath, later):
    noise = random.randbytes(90_000)
    serve(server, monkeypatch, Page(noise, headers={"ETag": '"1"'}, cuts=[70_000, 0, 0, 0]))
    refused(datapath)
    serve(server, monkeypatch, later)
    home = download.ensure("pfpascal", datapath)
    assert (home / "test_pairs.csv").read_bytes() == FILES["test_pairs.csv"]


def test_bytes_of_one_source_are_never_spliced_onto_anothers(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(random.randbytes(len(ARCHIVE)), cuts=[40_000, 0, 0, 0]), Page(ARCHIVE))
    assert is_whole(download.ensure("pfpascal", datapath))
    assert server.requests[-1].range is None


def test_server_that_announces_no_length_or_an_encoding(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE, sized=False, headers={"Content-Encoding": "x-gzip"}))
    assert is_whole(download.ensure("pfpascal", datapath))


def test_fetch_of_one_file_is_atomic_and_done_once(server, tmp_path):
    server.pages["/model.pt"] = Page(b"weights" * 9999, cuts=[100, 0, 0, 0])
    destination = tmp_path / "released" / "model.pt"
    with pytest.raises(UserError, match=r"model\.pt .*save it as .*model\.pt"):
        download.fetch(f"{server.url}/model.pt", destination)
    assert not destination.exists()
    download.fetch(f"{server.url}/model.pt", destination)
    download.fetch(f"{server.url}/model.pt", destination)
    assert destination.read_bytes() == b"weights" * 9999
    assert [path.name for path in destination.parent.iterdir()] == ["model.pt"]
    assert server.requests[-1].range == "bytes=100-"
    assert len(server.requests) == 5


def test_short_body_is_noticed_with_an_http_library_that_lets_it_pass(server, monkeypatch, datapath):
    get = requests.get

    def lenient(*arguments: Any, **options: Any) -> requests.Response:
        response = get(*arguments, **options)
        response.raw.enforce_content_length = False
        return response

    monkeypatch.setattr(requests, "get", lenient)
    serve(server, monkeypatch, Page(ARCHIVE, cuts=[20_000]))
    assert is_whole(download.ensure("pfpascal", datapath))
    assert server.requests[-1].range == "bytes=20000-"


def test_web_page_is_not_taken_for_a_file(server, tmp_path):
    server.pages["/model.pt"] = Page(b"\n<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(UserError, match="web page"):
        download.fetch(f"{server.url}/model.pt", tmp_path / "model.pt")
    assert listing(tmp_path) == {".model.pt.lock"}


# ---- archives --------------------------------------------------------------------------------------------


def damaged_header() -> bytes:
    """A sound .gz around a tar whose third header is damaged: tarfile takes it for the end of the archive."""
    third = WHOLE[2][0]
    with tarfile.open(fileobj=io.BytesIO(TAR)) as tar:
        at = tar.getmember(third.name).offset
    return gzip.compress(TAR[:at] + b"X" + TAR[at + 1 :])


def with_size(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A .tar.gz with a member that claims `size` bytes, before 1 MiB of zeros."""
    info, _ = member(f"{FOLDER}/claims", type=kind)
    info.size = size
    return gzip.compress(TAR[: 2 * tarfile.BLOCKSIZE] + info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))


BAD = {
    "web page": (b"<!DOCTYPE html><title>Quota exceeded</title>", "web page"),
    "nothing": (b"", "damaged"),
    "noise": (bytes(range(1, 256)) * 9, "no .tar.gz"),
    "cut off": (ARCHIVE[:-30_000], "cut off"),
    "checksum cut off": (ARCHIVE[:-6], "cut off"),
    "flipped bit": (ARCHIVE[:50_000] + bytes([ARCHIVE[50_000] ^ 4]) + ARCHIVE[50_001:], "damaged"),
    "gz, but no tar": (gzip.compress(b"hello" * 999), "damaged"),
    "damaged header": (damaged_header(), "damaged header"),
    "tar cut off": (gzip.compress(TAR[:40_000]), "damaged or cut off"),
    "other data set": (gzip.compress(tar_of(member("PF-WILLOW/test_pairs.csv"))), "'PF-WILLOW'"),
    "no top folder": (gzip.compress(tar_of(*WHOLE, member("readme.txt"))), "'readme.txt'"),
    "other layout": (gzip.compress(tar_of(*WHOLE[1:])), f"no {FOLDER}/test_pairs.csv"),
    "empty": (gzip.compress(tar_of()), "no PF-PASCAL/test_pairs.csv"),
    "impossible time": (gzip.compress(tar_of(member(f"{FOLDER}/late", mtime=2**80))), "damaged"),
    "file as folder": (gzip.compress(tar_of(member(f"{FOLDER}/a"), member(f"{FOLDER}/a/b"))), "both as"),
}
SPARSE = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
HOSTILE = {
    "traversal": ([member(f"{FOLDER}/../../evil.csv", b"evil")], "leaves its folder"),
    "traversal at once": ([member("../evil.csv", b"evil")], "leaves its folder"),
    "absolute": ([member(f"/{FOLDER}/evil.csv", b"evil")], "leaves its folder"),
    "nul": ([member(f"{FOLDER}/é\0b", b"evil")], "leaves its folder"),
    "link out": (
        [member(f"{FOLDER}/a", type=tarfile.SYMTYPE, linkname="../.."), member(f"{FOLDER}/a/b")],
        "a link",
    ),
    "link inside": ([member(f"{FOLDER}/in", type=tarfile.SYMTYPE, linkname="test_pairs.csv")], "a link"),
    "hard link": ([member(f"{FOLDER}/hard", type=tarfile.LNKTYPE, linkname="/etc/passwd")], "a link"),
    "pipe": ([member(f"{FOLDER}/pipe", type=tarfile.FIFOTYPE)], "a device"),
    "device": ([member(f"{FOLDER}/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], "a device"),
    "many bytes": ([member(f"{FOLDER}/bomb", bytes(1 << 20))], "more files or bytes"),
    "many sparse bytes": ([member(f"{FOLDER}/bomb", pax_headers=SPARSE)], "more files or bytes"),
    "many files": ([member(f"{FOLDER}/{i}") for i in range(99)], "more files or bytes"),
    "negative size": (with_size(-1), "more files or bytes"),
    "endless loop": (with_size(-1024), "more files or bytes"),
    "huge header": (with_size((1 << 20) + 1, tarfile.XHDTYPE), "more data"),
    "negative header": (with_size(-1024, tarfile.GNUTYPE_LONGNAME), "more data"),
    "much behind the end": (gzip.compress(TAR + bytes(1 << 20)), "more data"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archive_is_named_and_removed(server, monkeypatch, datapath, case):
    body, reason = BAD[case]
    [url] = serve(server, monkeypatch, Page(body))
    message = refused(datapath)
    assert reason in message
    assert url in message
    assert listing(datapath) == {f".{FOLDER}.lock"}
    server.pages[url.removeprefix(server.url)].body = ARCHIVE  # mended
    assert is_whole(download.ensure("pfpascal", datapath))


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archive_writes_nothing(server, monkeypatch, datapath, case):
    monkeypatch.setattr(archive, "MAX_BYTES", 512 << 10)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 60)
    monkeypatch.setattr(
        tarfile.TarFile, "extract", lambda *_, **__: pytest.fail("unpacked before it was checked")
    )
    content, reason = HOSTILE[case]
    body = content if isinstance(content, bytes) else gzip.compress(tar_of(*WHOLE, *content))
    serve(server, monkeypatch, Page(body))
    assert reason in refused(datapath)
    assert listing(datapath.parent) == {datapath.name, f"{datapath.name}/.{FOLDER}.lock"}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(TAR) // 8), st.integers(0, 255)), min_size=1, max_size=30))
def test_no_damage_to_a_tar_writes_outside_or_gets_past_as_another_error(tmp_path_factory, changes):
    damaged = bytearray(TAR)
    for at, value in changes:
        damaged[at] = value
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.tar.gz").write_bytes(gzip.compress(bytes(damaged), 1))
    with contextlib.suppress(UserError):
        archive.unpack(folder / "a.tar.gz", FOLDER, folder / "unpacked")
    assert {path.name for path in folder.iterdir()} <= {"a.tar.gz", "unpacked"}
    if (folder / "unpacked").exists():
        assert {path.name for path in (folder / "unpacked").iterdir()} <= {FOLDER}
        assert not any(path.is_symlink() for path in folder.rglob("*"))
    shutil.rmtree(folder)


def test_what_macos_adds_is_left_out(server, monkeypatch, datapath):
    litter = [member("._PF-PASCAL"), member(f"{FOLDER}/JPEGImages/._1.jpg", b"x"), member(".DS_Store")]
    folders = [member("./", type=tarfile.DIRTYPE), member(f"./{FOLDER}/", type=tarfile.DIRTYPE, mode=0o000)]
    renamed = [member(f"./{FOLDER}/{name}", content) for name, content in FILES.items()]
    litter.append(member(f"__MACOSX/{FOLDER}/._test_pairs.csv", b"x"))
    serve(server, monkeypatch, Page(gzip.compress(tar_of(*litter, *folders, *renamed))))
    assert is_whole(download.ensure("pfpascal", datapath))


def test_full_disk_is_reported_before_unpacking_and_while(server, monkeypatch, datapath):
    serve(server, monkeypatch, Page(ARCHIVE))
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        assert "GB needed" in refused(datapath)
    assert_absent(datapath)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", full)
        assert "No space left on device" in refused(datapath)
    assert_absent(datapath)
    assert is_whole(download.ensure("pfpascal", datapath))
    assert len(server.requests) == 1  # the download itself was good


# ---- Google Drive ----------------------------------------------------------------------------------------

QUOTA = "Too many users have viewed or downloaded this file recently."


def drive_says(monkeypatch: pytest.MonkeyPatch, answer: Exception | bytes) -> list[str]:
    asked = []

    def fake(url: str, output: str, **options: Any) -> str:
        asked.append(url)
        assert options["resume"]
        assert not options["use_cookies"]  # they would be written to the home folder
        if isinstance(answer, Exception):
            raise answer
        Path(output).write_bytes(answer)
        return output

    monkeypatch.setattr(gdown, "download", fake)
    return asked


def test_drive_file_is_fetched_by_gdown(monkeypatch, datapath):
    asked = drive_says(monkeypatch, ARCHIVE)
    assert is_whole(download.ensure("pfpascal", datapath))
    assert asked == ["https://drive.google.com/uc?id=1OOwpGzJnTsFXYh-YffMQ9XKM_Kl_zdzg"]
    assert [path.name for path in datapath.iterdir()] == [FOLDER]


def failed_after_retries() -> Exception:
    error = gdown.DownloadError("Download failed after 4 retries: HTTPSConnectionPool")
    error.__cause__ = requests.ConnectionError("no route")
    return error


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (gdown.FileURLRetrievalError(f"Failed to retrieve:\n\n\t{QUOTA}\n"), QUOTA),
        (requests.ConnectionError("no route"), "could not be reached"),
        (failed_after_retries(), "could not be reached"),
        (requests.ReadTimeout("slow"), "no answer"),
        (AssertionError("the page has changed"), "the page has changed"),
        (b"\n<html><body>Sign in</body></html>", "web page"),
    ],
)
def test_drive_refusal_says_what_to_save_where(monkeypatch, datapath, answer, reason):
    drive_says(monkeypatch, answer)
    message = refused(datapath)
    assert reason in message
    assert "\n" not in message
    assert (
        f"uc?id=1OOwpGzJnTsFXYh-YffMQ9XKM_Kl_zdzg by hand, save it as {datapath}/{FOLDER}.tar.gz" in message
    )
    assert_absent(datapath)


def test_full_disk_under_gdown_is_not_taken_for_a_refusal(monkeypatch, datapath):
    drive_says(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    assert "No space left on device): make room" in refused(datapath)


class Drive:
    """The real gdown against Google Drive's pages, played by the server on this machine."""

    def __init__(self, server: ArchiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages = server.pages
        request = requests.Session.request

        def local(self: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
            path = url.split("google.com", 1)[1] if "google.com" in url else url.removeprefix(server.url)
            return request(self, method, server.url + path, **options)

        monkeypatch.setattr(requests.Session, "request", local)

    def shows(self, html: str) -> None:
        self.pages["/uc"] = Page(html.encode(), headers={"Content-Type": "text/html; charset=utf-8"})

    def gives(self, body: bytes, **options: Any) -> None:
        """The warning that a large file was not scanned for viruses, and the file behind it."""
        self.shows(
            '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
            '<input type="hidden" name="id" value="1OO"><input type="hidden" name="confirm" value="t"></form>'
        )
        headers = {
            "Content-Type": "application/gzip",
            "Content-Disposition": 'attachment; filename="PF-PASCAL.tar.gz"',
        }
        self.pages["/download"] = Page(body, headers=headers, **options)


LARGE = ARCHIVE.ljust(1_500_000, b"\0")  # gdown keeps whole chunks of 512 KiB


def test_drive_quota_then_a_broken_download_then_the_rest_of_it(server, monkeypatch, datapath):
    drive = Drive(server, monkeypatch)
    drive.shows(f'<p class="uc-error-subcaption">{QUOTA}</p>')
    assert QUOTA in refused(datapath)
    monkeypatch.setattr(download, "PAUSES", ())
    drive.gives(LARGE, cuts=[1_200_000])
    assert "broke off" in refused(datapath)
    assert_absent(datapath)
    drive.gives(LARGE)
    assert is_whole(download.ensure("pfpascal", datapath))
    assert server.requests[-1].length < 1_000_000
    assert [path.name for path in datapath.iterdir()] == [FOLDER]


def test_drive_that_does_not_resume_is_asked_anew_by_the_next_run(server, monkeypatch, datapath):
    drive = Drive(server, monkeypatch)
    monkeypatch.setattr(download, "PAUSES", ())
    drive.gives(LARGE, cuts=[1_200_000], ranges=False)
    assert "broke off" in refused(datapath)
    drive.gives(LARGE, ranges=False)
    assert "range" in refused(datapath)
    assert is_whole(download.ensure("pfpascal", datapath))


# ---- processes -------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, types
root, datapath, url, limit = sys.argv[1:]
package = types.ModuleType("data")  # without the benchmarks, which are slow to import
package.__path__ = [root + "/data"]
sys.modules["data"] = package
sys.path.insert(0, root)
from dhpf.data import download
download.SOURCES["pfpascal"] = download.Source("PF-PASCAL", "test_pairs.csv", (url,))
steps = 0
def count(event, arguments):
    global steps
    if event == "open" or event.split(".")[0] in ("os", "shutil", "fcntl", "socket"):
        steps += 1
        if steps == int(limit):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
download.ensure("pfpascal", datapath)
print(steps)
"""


def child(datapath: Path, url: str, limit: int = 0) -> "subprocess.Popen[str]":
    """A process that fetches the benchmark, and is killed at its `limit`-th step on files or sockets."""
    command = [sys.executable, "-c", CHILD, str(ROOT), str(datapath), url, str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def assert_whole_or_absent(datapath: Path) -> None:
    home = datapath / FOLDER
    assert is_whole(home) or not home.exists()
    hidden = {f".{FOLDER}.download", f".{FOLDER}.lock"}
    assert {path.name for path in datapath.iterdir()} <= hidden | {FOLDER}
    assert {path.name for path in datapath.parent.iterdir()} == {datapath.name, "neighbour"}
    assert [path.name for path in (datapath.parent / "neighbour").iterdir()] == ["kept"]


@pytest.fixture
def watched(datapath: Path) -> Path:
    datapath.mkdir(parents=True)
    (datapath.parent / "neighbour").mkdir()
    (datapath.parent / "neighbour" / "kept").touch()
    return datapath


def test_killed_at_any_step_the_data_set_is_whole_or_absent(server, monkeypatch, watched):
    [url] = serve(server, monkeypatch, Page(ARCHIVE))
    first = child(watched, url)
    steps = int(first.communicate()[0])
    assert is_whole(watched / FOLDER)
    shutil.rmtree(watched / FOLDER)
    rng = random.Random(0)
    # The last steps are the renaming and the tidying.
    for limit in [*rng.sample(range(1, steps - 8), 6), *rng.sample(range(steps - 8, steps + 1), 2)]:
        killed = child(watched, url, limit)
        assert killed.wait() == -signal.SIGKILL or is_whole(watched / FOLDER)
        assert_whole_or_absent(watched)
        shutil.rmtree(watched / FOLDER, ignore_errors=True)
    assert is_whole(download.ensure("pfpascal", watched))
    assert [path.name for path in watched.iterdir()] == [FOLDER]


def test_killed_while_bytes_arrive_it_goes_on_from_them(server, monkeypatch, watched):
    [url] = serve(server, monkeypatch, Page(ARCHIVE, pause=0.05))
    partial = watched / f".{FOLDER}.download" / f"{FOLDER}.tar.gz.partial"
    rng = random.Random(1)
    for _ in range(3):
        held = partial.stat().st_size if partial.exists() else 0
        running = child(watched, url)
        assert server.sending.wait(30)
        time.sleep(rng.uniform(0, 0.12))
        running.kill()
        running.communicate()
        server.sending.clear()
        assert_whole_or_absent(watched)
        assert server.requests[-1].range == (f"bytes={held}-" if held else None)
    assert is_whole(download.ensure("pfpascal", watched))


def test_processes_started_together_download_once(server, monkeypatch, watched):
    [url] = serve(server, monkeypatch, Page(ARCHIVE, pause=0.05))
    together = [child(watched, url) for _ in range(3)]
    for process in together:
        process.communicate()
    assert [process.returncode for process in together] == [0, 0, 0]
    assert is_whole(watched / FOLDER)
    assert len(server.requests) == 1
