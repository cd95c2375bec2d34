import os
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError
from sources import s3_server
from sources.fault_server import FaultServer

from preheat.blob import Patience
from preheat.errors import (
    AccessDeniedError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    SourceChangedError,
)
from preheat.sources import attempts
from preheat.sources.s3 import S3Source
from preheat.sources.s3_blob import S3Blob

CONTENT = os.urandom(300_000)

pytestmark = pytest.mark.skipif(
    s3_server.executable() is None, reason="versitygw is not built; `make test` or tests/cluster builds it"
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server.running(tmp_path_factory.mktemp("s3")) as url:
        client = s3_server.client(url)
        client.create_bucket(Bucket="models")
        client.create_bucket(Bucket="versioned")
        client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
        client.put_object(Bucket="models", Key="a folder/model +1.ckpt", Body=CONTENT)
        client.put_object(Bucket="models", Key="empty.ckpt", Body=b"")
        yield url


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)


def open_blob(endpoint: str, key: str = "a folder/model +1.ckpt", bucket: str = "models", **more: Any) -> S3Blob:
    blob = S3Source(bucket, key, endpoint=endpoint, addressing="path", **more).open(Patience(1, 10))
    assert isinstance(blob, S3Blob)
    return blob


def test_an_object_is_read_by_ranges(endpoint: str) -> None:
    blob = open_blob(endpoint)
    assert blob.size == len(CONTENT)
    assert blob.read(0, len(CONTENT)) == CONTENT
    assert blob.read(7, 12_345) == CONTENT[7:12_345]
    assert blob.version.startswith("etag:")
    blob.close()


def test_leading_slashes_of_a_key_do_not_count(endpoint: str) -> None:
    open_blob(endpoint, "/a folder/model +1.ckpt").close()


def test_a_replaced_object_is_refused(endpoint: str) -> None:
    client = s3_server.client(endpoint)
    client.put_object(Bucket="models", Key="moving.ckpt", Body=CONTENT)
    blob = open_blob(endpoint, "moving.ckpt")
    client.put_object(Bucket="models", Key="moving.ckpt", Body=CONTENT[::-1])
    with pytest.raises(SourceChangedError, match="replaced"):
        blob.read(0, 10)
    blob.close()


def test_a_versioned_object_stays_readable_while_it_is_replaced(endpoint: str) -> None:
    client = s3_server.client(endpoint)
    first = client.put_object(Bucket="versioned", Key="m", Body=CONTENT)["VersionId"]
    blob = open_blob(endpoint, "m", "versioned")
    second = client.put_object(Bucket="versioned", Key="m", Body=CONTENT[::-1])["VersionId"]
    assert blob.version == f"versionId:{first}"
    assert blob.read(0, 1000) == CONTENT[:1000]
    newer = open_blob(endpoint, "m", "versioned")
    assert newer.version == f"versionId:{second}"
    older = open_blob(endpoint, "m", "versioned", version_id=first)
    assert older.read(0, 1000) == CONTENT[:1000]
    for opened in (blob, newer, older):
        opened.close()


@pytest.mark.parametrize(
    ("key", "bucket", "message"),
    [("nothing.ckpt", "models", "has no key 'nothing.ckpt'"), ("x", "nobucket", "there is no bucket 'nobucket'")],
)
def test_a_missing_key_or_bucket_is_named(endpoint: str, key: str, bucket: str, message: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=message):
        open_blob(endpoint, key, bucket)


def test_wrong_credentials_are_refused_with_a_remedy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDeniedError, match=r"SignatureDoesNotMatch.*serviceAccountName.*secretRef") as caught:
        open_blob(endpoint)
    assert "X-Amz" not in str(caught.value)


def test_no_credentials_are_refused_with_a_remedy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(AccessDeniedError, match=r"no credentials for s3://models.*secretRef"):
        open_blob(endpoint)


def test_anonymous_reads_are_not_signed(endpoint: str) -> None:
    with pytest.raises(AccessDeniedError, match="AccessDenied"):
        open_blob(endpoint, anonymous=True)


def test_an_empty_object_has_no_bytes(endpoint: str) -> None:
    blob = open_blob(endpoint, "empty.ckpt")
    assert (blob.size, blob.read(0, 0)) == (0, b"")
    blob.close()


def test_a_dead_endpoint_is_named() -> None:
    with pytest.raises(CheckpointSourceError, match="cannot be reached"):
        open_blob("http://127.0.0.1:9")


def test_a_refused_signature_is_made_anew(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = open_blob(endpoint)
    signed = []
    locate = blob.locate
    monkeypatch.setattr(blob._exchanges, "_locate", lambda: signed.append(1) or locate())
    first, target, when = blob._exchanges._location or pytest.fail("no location is remembered")
    stale = type(target)(target.scheme, target.host, target.port, target.path.replace("Signature=", "Signature=0"))
    blob._exchanges._location = first, stale, when
    assert blob.read(0, 10) == CONTENT[:10]
    assert len(signed) == 1
    blob.close()


def test_a_bucket_in_another_region_is_followed_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    source = S3Source("b", "k", region="us-east-1")
    blob = S3Blob.__new__(S3Blob)
    blob._source = source
    for code in (b"AuthorizationHeaderMalformed", b"AuthorizationQueryParametersError"):
        error = blob.refuse(400, "Bad Request", {}, b"<Code>" + code + b"</Code><Region>eu-west-1</Region>")
        assert str(error) == "bucket 'b' is in region eu-west-1. Set region: eu-west-1"


def test_a_redirect_that_only_names_the_region_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer().running() as server:
        server.serve("/b/k", CONTENT)
        server.next(status=301, headers={"x-amz-bucket-region": "eu-west-1"})
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.origin)
        blob = S3Source("b", "k", addressing="path").open(Patience(1, 10))
        assert "eu-west-1" in server.requests[-1].path
        assert blob.size == len(CONTENT)
        blob.close()


def test_a_credential_service_that_does_not_answer_is_no_wrong_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: object, *_: object, **__: object) -> str:
        raise ConnectTimeoutError(endpoint_url="https://sts")

    monkeypatch.setattr("botocore.signers.RequestSigner.generate_presigned_url", silent)
    with pytest.raises(CheckpointSourceError, match="cannot be reached"):
        open_blob("http://127.0.0.1:1")
