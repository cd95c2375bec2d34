"""A web server that serves byte ranges as RFC 9110 wants, until it is told to misbehave.

`serve` publishes an object. `next(**fault)` makes one coming answer wrong, `always(**fault)` all of them; the faults
are the keyword arguments of `Answer`. `requests` keeps what was asked, `sent` how many bytes of bodies went out.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 64 * 1024


@dataclass
class Answer:
    """How one request is answered; the defaults are a good server's."""

    status: int | None = None  # instead of 200 or 206, with an empty body
    phrase: str | None = None  # behind the status, instead of the usual words
    headers: dict[str, str] = field(default_factory=dict)  # added to the answer, or replacing what it has
    without: tuple[str, ...] = ()  # headers that are left out
    ignore_range: bool = False
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    stall_after: int | None = None  # bytes of the body, then nothing until the server stops
    drip: float | None = None  # seconds between single bytes
    flip: int | None = None  # offset in the object whose lowest bit is flipped
    drop: bool = False  # close the connection without an answer
    error_body: bytes = b""


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]


class FaultServer:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}  # by path; else the digest of the object, which takes its time for a large one
        self.requests: list[Request] = []
        self.sent = 0
        self.most: int | None = None  # answers at once; beyond them there is a 503
        self.refused = 0
        self.answering = 0
        self.counting = threading.Lock()
        self.stopping = threading.Event()
        self._faults: deque[Answer] = deque()
        self._always = Answer()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up on purpose

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def serve(self, path: str, content: bytes) -> str:
        """Publish `content` under `path` and return its URL."""
        self.objects[path] = content
        return self.origin + path

    def next(self, count: int = 1, **fault: object) -> None:
        """Answer `count` coming requests in this way; further calls queue up."""
        self._faults.extend(Answer(**fault) for _ in range(count))  # type: ignore[arg-type]

    def always(self, **fault: object) -> None:
        """Answer every request in this way once the queue is empty."""
        self._always = Answer(**fault)  # type: ignore[arg-type]

    def choose(self) -> Answer:
        with suppress(IndexError):
            return self._faults.popleft()
        return self._always

    @contextmanager
    def running(self) -> Iterator[FaultServer]:
        thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self._http.shutdown()
            self._http.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers in one packet

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.owner.requests.append(Request(self.path, dict(self.headers)))
        answer = self.owner.choose()
        with self.owner.counting:
            self.owner.answering += 1
            if self.owner.most is not None and self.owner.answering > self.owner.most:
                self.owner.refused += 1
                answer = Answer(status=503)
        try:
            self._answer(answer)
        finally:
            with self.owner.counting:
                self.owner.answering -= 1

    def _answer(self, answer: Answer) -> None:
        if answer.drop:
            self.close_connection = True
            return
        content = self.owner.objects.get(self.path.partition("?")[0])
        with suppress(ConnectionError):
            if answer.status is not None:
                self._send(answer, answer.status, {}, answer.error_body, 0)
            elif content is None:
                self._send(answer, 404, {}, b"", 0)
            else:
                self._send_object(answer, content)
            self.wfile.flush()

    def _send_object(self, answer: Answer, content: bytes) -> None:
        etag = self.owner.etags.get(self.path) or f'"{hashlib.md5(content).hexdigest()}"'
        size = len(content)
        if self.headers.get("If-Match", etag) != etag:
            return self._send(answer, 412, {}, b"", 0)
        headers = {"ETag": etag, "Last-Modified": "Sat, 01 Nov 2025 10:00:00 GMT", "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted or answer.ignore_range:
            return self._send(answer, 200, headers, content, 0)
        if wanted[1]:
            start, stop = int(wanted[1]), min(int(wanted[2] or size - 1) + 1, size)
        else:
            start, stop = max(0, size - int(wanted[2])), size
        if start >= stop:
            return self._send(answer, 416, {"Content-Range": f"bytes */{size}"}, b"", 0)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self._send(answer, 206, headers, content[start:stop], start)

    def _send(self, answer: Answer, status: int, headers: dict[str, str], body: bytes, start: int) -> None:
        self.send_response(status, answer.phrase)
        for name, value in {"Content-Length": str(len(body)), **headers, **answer.headers}.items():
            if name not in answer.without:
                self.send_header(name, value)
        self.end_headers()
        if answer.flip is not None and start <= answer.flip < start + len(body):
            at = answer.flip - start
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        if answer.cut_after is not None and answer.cut_after < len(body):
            body = body[: answer.cut_after]
            self.close_connection = True
        self._send_body(answer, body)

    def _send_body(self, answer: Answer, body: bytes) -> None:
        step = 1 if answer.drip else CHUNK
        for position in range(0, len(body), step):
            if answer.stall_after is not None and position >= answer.stall_after:
                self.wfile.flush()
                self.owner.stopping.wait()
                self.close_connection = True
                return
            self.wfile.write(body[position : position + step])
            self.owner.sent += min(step, len(body) - position)
            if answer.drip:
                self.wfile.flush()
                if self.owner.stopping.wait(answer.drip):
                    return
