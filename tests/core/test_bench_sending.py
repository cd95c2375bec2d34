"""The sender of the benchmarks counts what a server answers, and times each request from its turn on."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
try:
    from sending import Server, send
finally:
    sys.path.remove(str(ROOT / "bench"))

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="the sender is written in Go")


class Slow(BaseHTTPRequestHandler):
    """Answers one request at a time, each in a tenth of a second; /bad badly."""

    lock = threading.Lock()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            time.sleep(0.1)
        self.send_response(500 if self.path == "/bad" else 200)
        self.end_headers()
        self.wfile.write(b"answered")

    def log_message(self, *_: object) -> None:
        pass


def test_who_waits_for_a_late_server_is_timed_from_its_turn(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    requests = [{"method": "POST", "path": path, "type": "text/plain", "body": {}} for path in ["/", "/", "/", "/bad"]]
    try:
        to = Server(f"http://127.0.0.1:{server.server_port}", "")
        late = send(to, requests, tmp_path, rate=100, expect="answered")
        assert late.failures == {"500: answered": 1}
        assert 300 <= late.slowest <= 5000
        assert send(to, requests[:1], tmp_path, expect="something else").failed == 1
    finally:
        server.shutdown()
        server.server_close()
