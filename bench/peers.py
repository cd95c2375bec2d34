"""The programs that Preheat is measured beside, each as a command line, in an environment of their own.

What they are given is what their documentation recommends: their defaults, and more and smaller parts where tuned.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "peers.txt"


@dataclass(frozen=True)
class Peer:
    """A command that moves an object. `verifies`: it compares the bytes with a checksum of the object."""

    name: str
    command: tuple[str, ...]
    verifies: bool = False
    tuned: bool = False
    environment: dict[str, str] = field(default_factory=dict)


@cache
def environment() -> Path:
    """The folder of the peers' virtual environment, installed when their list has changed."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    cache_folder = Path(os.environ.get("PREHEAT_CACHE", Path.home() / ".cache" / "preheat"))
    folder = cache_folder / "bench" / f"peers-{digest}"
    if not (folder / "complete").exists():
        print("==> installing the peers, once", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", REQUIREMENTS], check=True)
        [libraries] = folder.glob("lib/python*/site-packages")
        (libraries / "torch_of_the_project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (folder / "complete").touch()
    return folder


def python() -> Path:
    """The interpreter that has the peers' libraries."""
    return environment() / "bin" / "python"


def s3_peers(endpoint: str, bucket: str, key: str, output: Path) -> Iterator[Peer]:
    """Every peer that fetches an object of S3."""
    client = (str(python()), str(HERE / "peer_clients.py"))
    where = (endpoint, bucket, key, str(output))
    yield Peer("boto3 default", (*client, "boto3", *where))
    yield Peer("boto3, 32 x 32 MiB", (*client, "boto3_tuned", *where), tuned=True)
    yield Peer("boto3 CRT, checksum", (*client, "boto3_crt", *where), verifies=True)
    yield Peer("awscrt", (*client, "awscrt_plain", *where))
    yield Peer("awscrt, checksum", (*client, "awscrt_verified", *where), verifies=True)
    yield Peer("obstore, 16 x 8 MiB", (*client, "obstore_ranges", *where), tuned=True)
    yield Peer("obstore default", (*client, "obstore_stream", *where))
    s5cmd = (str(environment() / "bin" / "s5cmd"), "--endpoint-url", endpoint, "cp")
    yield Peer("s5cmd default", (*s5cmd, f"s3://{bucket}/{key}", str(output)))
    yield Peer("s5cmd, 32 x 8 MiB", (*s5cmd, "-c", "32", "-p", "8", f"s3://{bucket}/{key}", str(output)), tuned=True)
    rclone = (str(environment() / "bin" / "rclone"), "--config", "", "copyto", f":s3:{bucket}/{key}", str(output))
    remote = _rclone(endpoint)
    yield Peer("rclone default", rclone, environment=remote)
    tuned = ("--multi-thread-streams", "32", "--multi-thread-chunk-size", "8M")
    yield Peer("rclone, 32 x 8 MiB", (*rclone, *tuned), tuned=True, environment=remote)


def upload_peers(endpoint: str, bucket: str, file: Path, key: str) -> Iterator[Peer]:
    """Every peer that puts a file into a bucket. rclone compares MD5 of what it sent with the server's."""
    client = (str(python()), str(HERE / "peer_clients.py"), "upload_boto3", endpoint, bucket, key, str(file))
    yield Peer("boto3 default", client)
    s5cmd = (str(environment() / "bin" / "s5cmd"), "--endpoint-url", endpoint, "cp")
    yield Peer("s5cmd default", (*s5cmd, str(file), f"s3://{bucket}/{key}"))
    rclone = (
        str(environment() / "bin" / "rclone"),
        "--config",
        "",
        "copyto",
        "--s3-no-check-bucket",
        str(file),
        f":s3:{bucket}/{key}",
    )
    yield Peer("rclone default", rclone, verifies=True, environment=_rclone(endpoint))
    tuned = ("--s3-chunk-size", "16M", "--s3-upload-concurrency", "8")
    yield Peer("rclone, 8 x 16 MiB", (*rclone, *tuned), verifies=True, tuned=True, environment=_rclone(endpoint))


def http_peers(url: str, key: str, output: Path) -> Iterator[Peer]:
    """Those that fetch a URL without S3."""
    yield Peer("curl", ("curl", "--fail", "--silent", "--output", str(output), f"{url}/{key}"))
    rclone = str(environment() / "bin" / "rclone")
    http = {"RCLONE_HTTP_URL": url}
    yield Peer("rclone, http", (rclone, "--config", "", "copyto", f":http:{key}", str(output)), environment=http)


def _rclone(endpoint: str) -> dict[str, str]:
    options = {"PROVIDER": "Other", "ENDPOINT": endpoint, "ENV_AUTH": "true", "REGION": "us-east-1"}
    return {f"RCLONE_S3_{name}": value for name, value in options.items()}
