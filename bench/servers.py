"""Servers on loopback for the checkpoints: one of files by ranges, versitygw for S3, a relay that slows either."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from peers import python
from processes import measure
from programs import program

from cluster.binaries import VERSITYGW, binary

HERE = Path(__file__).parent
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "AWS_REGION": "us-east-1"}
BUCKET = "bench"
CERTIFICATE, KEY = "certificate.pem", "key.pem"
FIRST_BYTE = "30ms"
BYTES_PER_SECOND = 90_000_000


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """URL of a server that answers ranges of the folder's files."""
    port = free_port()
    with running([program("server"), "files", folder, port], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """URL of a versitygw whose bucket holds the folder's checkpoints; its keys are put into the environment."""
    with versitygw(folder, "http") as url:
        files = [path for path in folder.iterdir() if path.suffix in (".ckpt", ".pt", ".safetensors")]
        measure([python(), HERE / "upload.py", url, BUCKET, folder / "s3" / BUCKET, *files])
        yield url


@contextmanager
def empty_s3_server(folder: Path) -> Iterator[str]:
    """URL of a versitygw with an empty bucket, which the folder holds."""
    (folder / "s3" / BUCKET).mkdir(parents=True)
    with versitygw(folder, "http") as url:
        yield url


@contextmanager
def s3_server_with_tls(folder: Path) -> Iterator[str]:
    """The same behind TLS, with a certificate that is put into the environment; `s3_server` has uploaded the files."""
    measure([sys.executable, HERE / "certificate.py", folder / CERTIFICATE, folder / KEY])
    trusted = str(folder / CERTIFICATE)
    os.environ |= {"AWS_CA_BUNDLE": trusted, "SSL_CERT_FILE": trusted}
    try:
        with versitygw(folder, "https", "--cert", folder / CERTIFICATE, "--key", folder / KEY) as url:
            yield url
    finally:
        del os.environ["AWS_CA_BUNDLE"], os.environ["SSL_CERT_FILE"]


@contextmanager
def slowed(url: str) -> Iterator[str]:
    """URL of the same server as if it were far: 30 ms to the first byte of an answer, 90 MB/s a connection."""
    port = free_port()
    with running([program("server"), "relay", urlsplit(url).netloc, port, FIRST_BYTE, BYTES_PER_SECOND], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def versitygw(folder: Path, scheme: str, *options: object) -> Iterator[str]:
    os.environ |= KEYS
    (folder / "s3").mkdir(exist_ok=True)
    port = free_port()
    gateway = [binary(VERSITYGW, "versitygw"), "--quiet", "--access", KEYS["AWS_ACCESS_KEY_ID"]]
    gateway += ["--secret", KEYS["AWS_SECRET_ACCESS_KEY"], "--port", f"127.0.0.1:{port}", *options]
    with running([*gateway, "posix", folder / "s3"], port):
        yield f"{scheme}://127.0.0.1:{port}"


@contextmanager
def running(command: Sequence[object], port: int) -> Iterator[None]:
    """A server process, from the moment it listens until the block ends."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen on port {port}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
