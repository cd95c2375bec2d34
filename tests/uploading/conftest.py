"""A real S3 server, and an environment with its keys and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from sources import s3_server

from preheat.sources import attempts
from preheat.sources.s3 import S3Source


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if s3_server.executable() is None:
        pytest.skip("versitygw is not built; `make test` or tests/cluster builds it")
    with s3_server.running(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)


class Bucket:
    """A bucket of its own, as its owner sees it."""

    def __init__(self, endpoint: str, client: Any, name: str) -> None:
        self.endpoint, self.client, self.name = endpoint, client, name
        client.create_bucket(Bucket=name)

    def source(self, prefix: str = "runs/", **more: Any) -> S3Source:
        return S3Source(self.name, prefix, endpoint=self.endpoint, addressing="path", **more)

    def objects(self) -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
        return {key: self.client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def unfinished(self) -> list[dict[str, Any]]:
        return list(self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ()))


@pytest.fixture(scope="package")
def client(endpoint: str) -> Iterator[Any]:
    found = s3_server.client(endpoint)
    yield found
    found.close()


@pytest.fixture
def bucket(endpoint: str, client: Any, keys: None, request: pytest.FixtureRequest) -> Bucket:
    return Bucket(endpoint, client, f"b{abs(hash(request.node.nodeid)):x}"[:20])
