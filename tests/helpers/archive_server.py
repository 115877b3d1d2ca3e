"""A file server on this machine that can misbehave in the ways that file servers do."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


@dataclass
class Page:
    """What is served at one address."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True  # answer Range with 206
    cuts: list[int] = field(default_factory=list)  # bytes after which each of the first connections breaks
    pause: float = 0.0  # seconds after each piece
    piece: int = 1 << 14  # bytes
    hang: float = 0.0  # seconds before the answer


class Request(NamedTuple):
    path: str
    range: str | None
    length: int  # bytes of the body sent in answer, unless the client went away


class ArchiveServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []


class _Handler(BaseHTTPRequestHandler):
    server: ArchiveServer

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.split("?")[0], Page(b"", status=404))
        time.sleep(page.hang)
        wanted = self.headers.get("Range")
        status, start = page.status, 0
        if wanted and page.ranges and self.headers.get("If-Range") in (None, *page.headers.values()):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(page.body) else 416
        body = page.body[start:] if status in (200, 206) else b"refused"
        self.send_response(status)
        for key, value in page.headers.items():
            self.send_header(key, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(page.body) - 1}/{len(page.body)}")
        self.send_header("Content-Length", str(len(body)))
        if page.cuts and status != 416:
            body = body[: page.cuts.pop(0)]
        self.server.requests.append(Request(self.path, wanted, len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(body), page.piece):
                self.wfile.write(body[at : at + page.piece])
                time.sleep(page.pause)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def archive_server() -> Iterator[ArchiveServer]:
    with ArchiveServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
