"""What S3 stores of an object's bytes, and what of it reaches a client that reads by ranges: moto and versitygw."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
import torch
from botocore.config import Config
from formats.samples import saved
from moto.server import ThreadedMotoServer
from sources import s3_server

from preheat.blob import Patience
from preheat.bundle.store import Store
from preheat.errors import CheckpointConfigError, CheckpointNotFoundError, CheckpointValidationError, SourceChangedError
from preheat.prepare import prepare
from preheat.sources import attempts
from preheat.sources.s3 import S3Source
from preheat.spec import parse
from preheat.transfer.checksum import Crc64
from preheat.verbs.verification import verify_checkpoint
from preheat.verify import Verify

CONTENT = saved({"state_dict": {"w": torch.randn(300, 100)}, "optimizer_states": [torch.randn(50_000)]})
BUCKET = "models"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client_of(endpoint).create_bucket(Bucket=BUCKET)
    yield endpoint
    server.stop()


@pytest.fixture(scope="module")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if s3_server.executable() is None:
        pytest.skip("versitygw is not built; `make test` or tests/cluster builds it")
    with s3_server.running(tmp_path_factory.mktemp("s3")) as endpoint:
        client_of(endpoint).create_bucket(Bucket=BUCKET)
        yield endpoint


@pytest.fixture(params=["moto", "versitygw"])
def endpoint(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)


def client_of(endpoint: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=s3_server.ACCESS_KEY,
        aws_secret_access_key=s3_server.SECRET_KEY,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )  # fmt: skip


def crc64nvme(content: bytes) -> str:
    crc = Crc64()
    crc.update(memoryview(content))
    return base64.b64encode(bytes.fromhex(crc.hexdigest())).decode()


STORED = {
    "SHA256": lambda content: base64.b64encode(hashlib.sha256(content).digest()).decode(),
    "CRC64NVME": crc64nvme,
}


def put(endpoint: str, key: str, algorithm: str, content: bytes = CONTENT) -> None:
    checksum = {f"Checksum{algorithm}": STORED[algorithm](content)}
    client_of(endpoint).put_object(Bucket=BUCKET, Key=key, Body=content, ChecksumAlgorithm=algorithm, **checksum)


def source(endpoint: str, key: str, **more: Any) -> S3Source:
    return S3Source(BUCKET, key, endpoint=endpoint, addressing="path", **more)


@pytest.mark.parametrize("algorithm", STORED)
def test_what_the_service_stores_of_an_object_verifies_it(endpoint: str, algorithm: str) -> None:
    put(endpoint, "model.ckpt", algorithm)
    head = client_of(endpoint).head_object(Bucket=BUCKET, Key="model.ckpt", ChecksumMode="ENABLED")
    stored = head[f"Checksum{algorithm}"]
    declared = {"sha256": base64.b64decode(stored).hex()} if algorithm == "SHA256" else {"crc64nvme": stored}
    assert verify_checkpoint(source(endpoint, "model.ckpt"), **declared).fetched_bytes >= len(CONTENT)
    damaged = bytearray(CONTENT)
    damaged[len(CONTENT) // 2] ^= 1
    put(endpoint, "damaged.ckpt", algorithm, bytes(damaged))
    with pytest.raises(CheckpointValidationError, match="verify expects"):
        verify_checkpoint(source(endpoint, "damaged.ckpt"), crc32=False, **declared)


def checksums_of(endpoint: str, key: str, wanted: str | None) -> dict[str, str]:
    """The checksums in the answer to a GET that asks for them, of a range or of all."""
    parameters = {"Bucket": BUCKET, "Key": key, "ChecksumMode": "ENABLED"}
    url = urlsplit(client_of(endpoint).generate_presigned_url("get_object", Params=parameters, ExpiresIn=60))
    headers = {"x-amz-checksum-mode": "ENABLED"} | ({"Range": wanted} if wanted else {})
    connection = http.client.HTTPConnection(url.netloc, timeout=20)
    connection.request("GET", f"{url.path}?{url.query}", headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == (206 if wanted else 200)
    found = {name.lower(): value for name, value in answer.getheaders()}
    return {name: found[name] for name in ("x-amz-checksum-sha256", "x-amz-checksum-crc64nvme") if name in found}


@pytest.mark.parametrize("algorithm", STORED)
def test_an_answer_to_a_range_carries_no_checksum_of_the_whole(endpoint: str, algorithm: str) -> None:
    """Why none is compared unasked: the first request is one for a range, and a HEAD would be one more."""
    put(endpoint, "ranged.ckpt", algorithm)
    name = f"x-amz-checksum-{algorithm.lower()}"
    assert checksums_of(endpoint, "ranged.ckpt", None) == {name: STORED[algorithm](CONTENT)}
    assert checksums_of(endpoint, "ranged.ckpt", "bytes=-65536") == {}
    assert checksums_of(endpoint, "ranged.ckpt", "bytes=0-16383") == {}


def test_a_checksum_of_parts_is_no_digest_of_the_whole(endpoint: str) -> None:
    client, parts = client_of(endpoint), [os.urandom(5 << 20), os.urandom(70_000)]
    upload = {"Bucket": BUCKET, "Key": "parts.ckpt"}
    begun = client.create_multipart_upload(**upload, ChecksumAlgorithm="SHA256", ChecksumType="COMPOSITE")
    upload["UploadId"] = begun["UploadId"]
    done = [
        client.upload_part(**upload, PartNumber=number, Body=part, ChecksumSHA256=STORED["SHA256"](part))
        for number, part in enumerate(parts, 1)
    ]
    listed = [
        {"ETag": each["ETag"], "PartNumber": number, "ChecksumSHA256": STORED["SHA256"](part)}
        for number, (each, part) in enumerate(zip(done, parts, strict=True), 1)
    ]
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": listed})
    head = client.head_object(Bucket=BUCKET, Key="parts.ckpt", ChecksumMode="ENABLED")
    assert head["ChecksumType"] == "COMPOSITE"
    assert head["ChecksumSHA256"].partition("-")[0] != STORED["SHA256"](b"".join(parts))
    with pytest.raises(CheckpointConfigError, match="sha256"):
        Verify(sha256=head["ChecksumSHA256"])
    blob = source(endpoint, "parts.ckpt").open(Patience(1, 10))
    assert blob.version.endswith('-2"')
    assert blob.read(0, blob.size) == b"".join(parts)
    blob.close()


def test_a_checkpoint_in_moto_becomes_a_bundle(moto: str, tmp_path: Path) -> None:
    put(moto, "run.ckpt", "CRC64NVME")
    where = {"bucket": BUCKET, "key": "run.ckpt", "endpoint": moto, "addressing": "path"}
    stages = [{"s3": where}, {"verify": {"crc64nvme": crc64nvme(CONTENT)}}, {"weightsOnly": {}}]
    outcome = prepare(parse({"stages": stages}), Store(tmp_path), "test")
    assert outcome.manifest.tensors.keys() == {"w"}
    assert outcome.fetched_bytes < len(CONTENT) + 70_000


def test_a_replaced_object_and_one_that_is_not_there_are_told_apart(moto: str) -> None:
    put(moto, "moving.ckpt", "SHA256")
    blob = source(moto, "moving.ckpt").open(Patience(1, 10))
    put(moto, "moving.ckpt", "SHA256", CONTENT[::-1])
    with pytest.raises(SourceChangedError, match="replaced"):
        blob.read(0, 10)
    blob.close()
    with pytest.raises(CheckpointNotFoundError, match="has no key"):
        source(moto, "nothing.ckpt").open(Patience(1, 10))


def test_versions_of_an_object_are_read_by_name(moto: str) -> None:
    client = client_of(moto)
    client.create_bucket(Bucket="versioned")
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    first = client.put_object(Bucket="versioned", Key="m", Body=CONTENT)["VersionId"]
    client.put_object(Bucket="versioned", Key="m", Body=CONTENT[::-1])
    older = S3Source("versioned", "m", endpoint=moto, addressing="path", version_id=first).open(Patience(1, 10))
    assert older.version == f"versionId:{first}"
    assert older.read(0, 1000) == CONTENT[:1000]
    older.close()
