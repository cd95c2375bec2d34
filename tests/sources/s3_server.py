"""The real S3 server of the cluster's tests, alone: versitygw over a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

ACCESS_KEY, SECRET_KEY = "test-user", "test-secret"


def executable() -> Path | None:
    """Where the cluster's tests have built it; None when they never did."""
    cache = Path(os.environ.get("PREHEAT_CACHE", Path.home() / ".cache" / "preheat"))
    return next(iter(sorted(cache.glob("bin/versitygw-*/versitygw"))), None)


@contextmanager
def running(folder: Path, access: str = ACCESS_KEY, secret: str = SECRET_KEY) -> Iterator[str]:
    """Its endpoint's URL; buckets are versioned when they ask for it."""
    (folder / "buckets").mkdir()
    (folder / "versions").mkdir()
    port = _free_port()
    command = [
        str(executable()), "--port", f"127.0.0.1:{port}", "--access", access, "--secret", secret, "--quiet",
        "posix", "--versioning-dir", str(folder / "versions"), str(folder / "buckets"),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def client(endpoint: str, access: str = ACCESS_KEY, secret: str = SECRET_KEY) -> Any:
    """A boto3 client to prepare buckets with."""
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access,
        aws_secret_access_key=secret, config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
    raise RuntimeError(f"versitygw does not listen on port {port}")
