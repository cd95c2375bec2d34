"""Real servers on loopback for the checkpoints: a range server for HTTP, versitygw for S3."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from processes import measure

from cluster.binaries import VERSITYGW, binary

HERE = Path(__file__).parent
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """URL of a server that answers ranges of the folder's files."""
    port = free_port()
    with running([sys.executable, HERE / "range_server.py", folder, str(port)], port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """URL of a versitygw whose bucket `bench` holds the folder's checkpoints; its keys are put into the environment."""
    os.environ.update(KEYS)
    port = free_port()
    with tempfile.TemporaryDirectory(dir=folder) as root:
        gateway = [binary(VERSITYGW, "versitygw"), "--quiet", "--access", KEYS["AWS_ACCESS_KEY_ID"]]
        gateway += ["--secret", KEYS["AWS_SECRET_ACCESS_KEY"], "--port", f"127.0.0.1:{port}", "posix", root]
        with running(gateway, port):
            url = f"http://127.0.0.1:{port}"
            measure([sys.executable, HERE / "upload.py", url, "bench", *folder.glob("*.ckpt")])
            yield url


@contextmanager
def running(command: Sequence[object], port: int) -> Iterator[None]:
    """A server process, from the moment it listens until the block ends."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
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
