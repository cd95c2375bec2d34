"""A real S3 server for tests and the demo: versitygw over a folder, on the bridge, where pods reach it too."""

from __future__ import annotations

import json
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster import settings
from cluster.binaries import VERSITYGW, binary
from cluster.commands import wait_until
from cluster.processes import Processes

PROGRAM = "versitygw"


@dataclass(frozen=True)
class S3Server:
    """Where it listens and who may use it; `root` holds a folder for each bucket and a file for each object."""

    endpoint: str
    access_key: str
    secret_key: str
    root: str
    region: str = "us-east-1"

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket; one that is there stays as it is."""
        client = self.client()
        if not any(bucket["Name"] == name for bucket in client.list_buckets()["Buckets"]):
            client.create_bucket(Bucket=name)
        client.close()

    def put(self, bucket: str, key: str, path: Path) -> None:
        """Upload a file, in parts when it is large."""
        client = self.client()
        client.upload_file(str(path), bucket, key)
        client.close()

    def client(self) -> Any:
        """A boto3 client for everything else; the caller closes it."""
        import boto3  # the cluster itself needs the standard library only

        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name=self.region,
            aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key,
        )  # fmt: skip


def s3_server(processes: Processes, scratch: Path) -> S3Server:
    """The server of this cluster, started on first use."""
    record = scratch / "s3.json"
    if not processes.running(PROGRAM):
        server = _start(processes, scratch / "s3")
        record.touch(mode=0o600)
        record.write_text(json.dumps(asdict(server)))
    return S3Server(**json.loads(record.read_text()))


def _start(processes: Processes, folder: Path) -> S3Server:
    root, versions = folder / "buckets", folder / "versions"
    root.mkdir(parents=True)
    versions.mkdir()
    address = f"{settings.BRIDGE_IP}:{settings.S3_PORT}"
    server = S3Server(f"http://{address}", secrets.token_hex(8), secrets.token_hex(16), str(root))
    processes.start(
        PROGRAM, binary(VERSITYGW, "versitygw"), "--quiet", "--port", address,
        "--access", server.access_key, "--secret", server.secret_key,
        "posix", "--versioning-dir", versions, root,
    )  # fmt: skip
    wait_until("the S3 server listens", _listens, seconds=20)
    return server


def _listens() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((settings.BRIDGE_IP, settings.S3_PORT)) == 0
