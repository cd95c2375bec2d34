"""nginx over a folder, as people put it before their checkpoints: each way of serving them under a path of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sources.tls import self_signed

USERNAME, PASSWORD = "trainer", "secret"

_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{}}
http {{
  log_format requests '$request_method $uri $status $sent_http_content_range';
  access_log {folder}/requests requests;
  client_body_temp_path {folder}/temporary;
  proxy_temp_path {folder}/temporary;
  fastcgi_temp_path {folder}/temporary;
  uwsgi_temp_path {folder}/temporary;
  scgi_temp_path {folder}/temporary;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{secure} ssl;
    ssl_certificate {folder}/cert.pem;
    ssl_certificate_key {folder}/key.pem;
    location /plain/ {{ alias {files}/; }}
    location /compressed/ {{ alias {files}/; gzip on; gzip_types *; gzip_min_length 1; }}
    location /moved/ {{ rewrite ^/moved/(.*)$ /plain/$1 redirect; }}
    location /private/ {{ alias {files}/; auth_basic "private"; auth_basic_user_file {folder}/users; }}
    location /slow/ {{ alias {files}/; limit_rate 400k; }}
    location /whole/ {{ alias {files}/; max_ranges 0; }}
    location /untagged/ {{ alias {files}/; etag off; }}
    location /unversioned/ {{ alias {files}/; etag off; add_header Last-Modified ""; if_modified_since off; }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running server."""

    folder: Path
    url: str
    secure_url: str

    @property
    def files(self) -> Path:
        """What it serves."""
        return self.folder / "files"

    def requests(self) -> list[str]:
        """Method, path, status and range of every request so far."""
        return (self.folder / "requests").read_text().splitlines()

    @property
    def certificate(self) -> str:
        """Who trusts it trusts the server."""
        return (self.folder / "cert.pem").read_text()


def executable() -> Path | None:
    """The one on the path, or the one in the cache of the cluster's tests; None when there is neither."""
    cache = Path(os.environ.get("PREHEAT_CACHE", Path.home() / ".cache" / "preheat"))
    found = shutil.which("nginx") or next(iter(sorted(cache.glob("bin/nginx-*/usr/sbin/nginx"))), None)
    return Path(found) if found else None


@contextmanager
def running(folder: Path) -> Iterator[Nginx]:
    """The server, until the block ends."""
    self_signed(folder)
    (folder / "files").mkdir()
    (folder / "users").write_text(f"{USERNAME}:{{PLAIN}}{PASSWORD}\n")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, secure = one.getsockname()[1], other.getsockname()[1]
    text = _CONFIGURATION.format(folder=folder, files=folder / "files", port=port, secure=secure)
    (folder / "nginx.conf").write_text(text)
    command = [str(executable()), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(port, process, folder / "log")
        yield Nginx(folder, f"http://127.0.0.1:{port}", f"https://127.0.0.1:{secure}")
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
    raise RuntimeError(f"nginx does not listen on port {port}: {log.read_text()}")
