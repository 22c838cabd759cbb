"""A small HTTP server on this machine that misbehaves as told: for everything that downloads."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Fault:
    """What goes wrong with one file.

    Args:
        cut_after: bytes of each answer's body after which the connection ends.
        status: answered instead of the file.
        times: to how many requests it happens.
        announced: what Content-Length says instead of the truth.
        ranges: whether range requests are obeyed.
        pause: seconds between pieces of 4096 bytes.
        content: sent instead of the file's.
    """

    cut_after: int | None = None
    status: int | None = None
    times: int = 10**9
    announced: int | None = None
    ranges: bool = True
    pause: float = 0.0
    content: bytes | None = None


@dataclass
class Server:
    """`requests` are (method, path, first byte asked for); `versions` are ETags by path, "" for none."""

    url: str
    folder: Path
    faults: dict[str, Fault] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    def bodies(self, path: str) -> list[int]:
        """First bytes of the GET requests for a file, in order."""
        return [first for method, asked, first in self.requests if method == "GET" and asked == path]


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serves the files below a folder on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            _answer(self, server, body=False)

        def do_GET(self) -> None:
            _answer(self, server, body=True)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    server = Server(f"http://127.0.0.1:{httpd.server_address[1]}", folder)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, server: Server, body: bool) -> None:
    path = handler.path.lstrip("/")
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    first = int(asked[1]) if asked else 0
    server.requests.append((handler.command, path, first))
    fault = server.faults.get(path, Fault())
    if fault.times <= 0:
        fault = Fault()
    elif body:
        fault.times -= 1
    file = server.folder / path
    status = fault.status or (200 if file.is_file() else 404)
    if status != 200:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    content = file.read_bytes() if fault.content is None else fault.content
    total = len(content) if fault.announced is None else fault.announced
    ranged = asked is not None and fault.ranges
    if ranged and first >= total:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{total}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206 if ranged else 200)
    if ranged:
        handler.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        content = content[first:]
        total -= first
    handler.send_header("Content-Length", str(total))
    if version := server.versions.get(path, '"1"'):
        handler.send_header("ETag", version)
    handler.end_headers()
    if not body:
        return
    cut = len(content) if fault.cut_after is None else fault.cut_after
    try:
        for start in range(0, min(cut, len(content)), 4096):
            handler.wfile.write(content[start : min(start + 4096, cut)])
            time.sleep(fault.pause)
    except (BrokenPipeError, ConnectionResetError):
        pass
    if min(cut, len(content)) < total:
        handler.close_connection = True
