"""ETags and signatures of a real S3 server."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import saved
from safetensors.torch import save_file
from sources import s3_server
from verify.signing import PUBLIC, sign_folder

from preheat.errors import CheckpointValidationError, SourceChangedError, UntrustedError
from preheat.sources.s3 import S3Source
from preheat.verbs.digest import calculate_checksum
from preheat.verbs.verification import verify_checkpoint

pytestmark = pytest.mark.skipif(s3_server.executable() is None, reason="versitygw is not built; `make test` builds it")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server.running(tmp_path_factory.mktemp("s3")) as url:
        client = s3_server.client(url)
        client.create_bucket(Bucket="plain")
        client.create_bucket(Bucket="versioned")
        client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
        yield url


@pytest.fixture
def source(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)
    return lambda bucket, key: S3Source(bucket, key, region="us-east-1", endpoint=endpoint)


@pytest.mark.parametrize("bucket", ["plain", "versioned"])
def test_the_etag_is_that_of_the_version_that_is_read(bucket: str, endpoint: str, source: Any) -> None:
    client = s3_server.client(endpoint)
    first = client.put_object(Bucket=bucket, Key="x.ckpt", Body=saved({"w": torch.ones(3)}))["ETag"]
    assert verify_checkpoint(source(bucket, "x.ckpt"), etag=first).checks.etag == first
    client.put_object(Bucket=bucket, Key="x.ckpt", Body=saved({"w": torch.zeros(3)}))
    with pytest.raises(SourceChangedError, match=f"verify expects {first}"):
        verify_checkpoint(source(bucket, "x.ckpt"), etag=first)


def test_the_checksum_that_s3_stores_is_the_one_that_is_compared(endpoint: str, source: Any, tmp_path: Path) -> None:
    content = saved({"w": torch.randn(50_000)})
    (tmp_path / "x.ckpt").write_bytes(content)
    ours = b64encode(bytes.fromhex(calculate_checksum(tmp_path / "x.ckpt", "crc64nvme"))).decode()
    client = s3_server.client(endpoint)
    client.put_object(Bucket="plain", Key="crc.ckpt", Body=content, ChecksumCRC64NVME=ours)  # refused if it were not so
    stored = client.head_object(Bucket="plain", Key="crc.ckpt", ChecksumMode="ENABLED")["ChecksumCRC64NVME"]
    assert verify_checkpoint(source("plain", "crc.ckpt"), crc64nvme=stored).checks.crc64nvme
    client.put_object(Bucket="plain", Key="crc.ckpt", Body=saved({"w": torch.randn(50_000)}))
    with pytest.raises(CheckpointValidationError, match="has CRC-64/NVME"):
        verify_checkpoint(source("plain", "crc.ckpt"), crc64nvme=stored)


def test_a_signature_beside_the_keys_vouches_for_them(endpoint: str, source: Any, tmp_path: Path) -> None:
    save_file({"w": torch.randn(5000)}, tmp_path / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"w": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    sign_folder(tmp_path)
    client = s3_server.client(endpoint)
    for path in tmp_path.iterdir():
        client.put_object(Bucket="plain", Key=f"a/b/{path.name}", Body=path.read_bytes())
    for key in ("a/b/", "a/b/model.safetensors.index.json", "a/b/model-00001-of-00001.safetensors"):
        assert verify_checkpoint(source("plain", key), signature={"publicKey": PUBLIC}).checks.signed
    client.delete_object(Bucket="plain", Key="a/b/model.sig")
    with pytest.raises(UntrustedError, match="the checkpoint is not signed"):
        verify_checkpoint(source("plain", "a/b/"), signature={"publicKey": PUBLIC})
