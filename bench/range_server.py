"""Serves the files of a folder by ranges, with sendfile. Usage: range_server.py FOLDER PORT"""

from __future__ import annotations

import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[1])


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD with one range, ETag and If-Match."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer 200, 206, 412 or 416."""
        with (FOLDER / Path(self.path).name).open("rb") as file:
            size, etag = os.fstat(file.fileno()).st_size, f'"{os.fstat(file.fileno()).st_mtime_ns:x}"'
            if self.headers.get("If-Match", etag) != etag:
                return self._answer(412, 0, etag)
            start, stop = self._range(size)
            if start >= stop:
                return self._answer(416, 0, etag)
            partial = "Range" in self.headers
            self._answer(
                206 if partial else 200, stop - start, etag, f"bytes {start}-{stop - 1}/{size}" if partial else ""
            )
            while self.command == "GET" and start < stop:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, stop - start)

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name

    def _range(self, size: int) -> tuple[int, int]:
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "bytes=0-"))
        first, last = match.groups() if match else ("0", "")
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(size, int(last) + 1 if last else size)

    def _answer(self, status: int, length: int, etag: str, content_range: str = "") -> None:
        self.send_response(status)
        headers = {
            "Content-Length": str(length),
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Content-Range": content_range,
        }
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
