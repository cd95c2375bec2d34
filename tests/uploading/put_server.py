"""A web server that files are PUT to, until it is told to misbehave.

`files` is what it holds, `asked` what it was asked. `next(**fault)` makes one coming request go wrong.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """How one request goes wrong, if its method is that one."""

    method: str = "PUT"
    status: int | None = None  # instead of the usual one, and nothing is done
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    flip: bool = False  # one bit of the body is stored otherwise
    deaf: bool = False  # the answer comes before the body has


class PutServer:
    def __init__(self, *, collections: bool = False) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.token = ""
        self.collections = {"/"} if collections else None  # of WebDAV: a file needs its folder
        self._faults: deque[Fault] = deque()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def next(self, count: int = 1, **fault: object) -> None:
        self._faults.extend(Fault(**fault) for _ in range(count))  # type: ignore[arg-type]

    def fault(self, method: str) -> Fault:
        if self._faults and self._faults[0].method == method:
            return self._faults.popleft()
        return Fault()

    @contextmanager
    def running(self) -> Iterator[PutServer]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: PutServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        path, fault = self._path(), self.owner.fault("PUT")
        self.owner.asked.append(("PUT", path))
        length = int(self.headers["Content-Length"])
        if fault.deaf:
            self._answer(fault.status or 403)
            self.rfile.read(length)
            return None
        body = self.rfile.read(length if fault.cut_after is None else fault.cut_after)
        if fault.cut_after is not None:
            self.close_connection = True
            return None
        if self.owner.token and self.headers.get("Authorization") != f"Bearer {self.owner.token}":
            return self._answer(401)
        if fault.status:
            return self._answer(fault.status)
        if self.owner.collections is not None and path.rpartition("/")[0] + "/" not in self.owner.collections:
            return self._answer(409)
        self.owner.files[path] = bytes([body[0] ^ 1]) + body[1:] if fault.flip else body
        return self._answer(201)

    def do_MKCOL(self) -> None:
        path = self._path()
        self.owner.asked.append(("MKCOL", path))
        if self.owner.collections is None:
            return self._answer(405)
        new = path not in self.owner.collections
        self.owner.collections.add(path)
        return self._answer(201 if new else 405)

    def do_DELETE(self) -> None:
        self.owner.asked.append(("DELETE", self._path()))
        return self._answer(204 if self.owner.files.pop(self._path(), None) is not None else 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, fault = self._path(), self.owner.fault(self.command)
        content = self.owner.files.get(path)
        if fault.status or content is None:
            return self._answer(fault.status or 404)
        headers = {"ETag": f'"{hash(content)}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted or self.command == "HEAD":
            return self._answer(200, content, headers)
        size = len(content)
        start = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
        stop = min(int(wanted[2] or size - 1) + 1, size) if wanted[1] else size
        return self._answer(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
