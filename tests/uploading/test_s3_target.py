import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uploading.checkpoints_to_send import point, save, seal, tree

from preheat.blob import Patience
from preheat.errors import AccessDeniedError, CheckpointError, CheckpointNotFoundError, NoSpaceError
from preheat.transfer.checksum import Crc64
from preheat.uploading import parts, s3_target
from preheat.uploading.content import Content
from preheat.uploading.finished import Rest
from preheat.uploading.s3_target import S3Target
from preheat.uploading.sending import Reply
from preheat.uploading.shipping import Shipping

NAME = "net_cp=E1_U10_S100"
PART = 5 << 20  # the least that S3 takes


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART", PART)
    monkeypatch.setattr(s3_target, "PART", PART)


@pytest.fixture
def target(bucket: Any) -> Iterator[S3Target]:
    found = S3Target(bucket.source(), Patience(2, 20))
    yield found
    found.close()


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """What the bucket was asked, and about what."""
    asked: list[tuple[str, str | None]] = []
    ask = S3Target.ask

    def recorded(self: S3Target, method: str, operation: str, name: str | None, *more: Any) -> Reply:
        asked.append((operation, name))
        return ask(self, method, operation, name, *more)

    monkeypatch.setattr(S3Target, "ask", recorded)
    return asked


def a_file(folder: Path, size: int) -> Path:
    path = folder / "file"
    path.write_bytes(os.urandom(size))
    return path


def put(target: S3Target, path: Path, advance: Callable[[int], None] = lambda count: None) -> bool:
    with Content(path) as content:
        return target.put(content, "exp/file", advance)


def test_a_checkpoint_arrives_with_its_manifest_last(
    bucket: Any, target: S3Target, operations: list[tuple[str, str | None]], tmp_path: Path
) -> None:
    home = tmp_path / "here"
    save(home, NAME, size=2 * PART + 12_345, **{"a file": b"", "ümlaut & <co>": b"x"})
    point(home, "latest", NAME)
    counted: list[int] = []
    shipping = Shipping(home, target)
    assert shipping.look(Rest(0)), shipping.account.error
    assert bucket.objects() == {f"runs/{name}": data for name, data in tree(home).items()}
    written = [name for operation, name in operations if operation in ("put_object", "complete_multipart_upload")]
    assert written[-2:] == [f"{NAME}/manifest.json", "net_cp=latest.json"]
    assert shipping.account.to_json()["uploaded"] == 2
    assert bucket.unfinished() == []
    assert counted == []
    stored = bucket.client.head_object(Bucket=bucket.name, Key=f"runs/{NAME}/model.safetensors", ChecksumMode="ENABLED")
    with Content(home / NAME / "model.safetensors") as content:
        assert stored["ChecksumCRC64NVME"] == parts.spelled(content.crc64(0, content.size))


def test_a_second_look_sends_nothing(
    bucket: Any, target: S3Target, operations: list[tuple[str, str | None]], tmp_path: Path
) -> None:
    save(tmp_path, NAME)
    Shipping(tmp_path, target).look(Rest(0))
    operations.clear()
    again = Shipping(tmp_path, target)  # as after a restart
    assert again.look(Rest(0))
    assert operations == [("get_object", f"{NAME}/manifest.json")]
    assert (again.account.present, again.account.units) == (1, 0)
    operations.clear()
    assert again.look(Rest(0))
    assert operations == []


def test_a_checkpoint_that_was_saved_anew_is_never_mixed(
    bucket: Any, target: S3Target, operations: list[tuple[str, str | None]], tmp_path: Path
) -> None:
    folder = save(tmp_path, NAME)
    Shipping(tmp_path, target).look(Rest(0))
    (folder / "model.safetensors").write_bytes(os.urandom(2000))
    seal(folder)
    operations.clear()
    assert Shipping(tmp_path, target).look(Rest(0))
    changes = [each for each in operations if each[0] in ("delete_object", "put_object")]
    assert changes[0] == ("delete_object", f"{NAME}/manifest.json")
    assert changes[-1] == ("put_object", f"{NAME}/manifest.json")
    assert bucket.objects() == {f"runs/{name}": data for name, data in tree(tmp_path).items()}


class Killed(BaseException):
    """As if the process were gone: nothing catches it."""


def test_parts_that_arrived_are_not_sent_again(
    bucket: Any, target: S3Target, operations: list[tuple[str, str | None]], tmp_path: Path
) -> None:
    path = a_file(tmp_path, 8 * PART + 5)
    sent = 0

    def die_half_way(count: int) -> None:
        nonlocal sent
        sent += count
        if sent > 4 * PART:
            raise Killed

    with pytest.raises(Killed):
        put(target, path, die_half_way)
    [unfinished] = bucket.unfinished()
    upload = {"Bucket": bucket.name, "Key": "runs/exp/file", "UploadId": unfinished["UploadId"]}
    deadline = time.monotonic() + 30
    while not (there := len(bucket.client.list_parts(**upload).get("Parts", ()))):  # some are on their way still
        assert time.monotonic() < deadline, "no part arrived"
    operations.clear()
    counted: list[int] = []
    again = S3Target(bucket.source(), Patience(2, 20))
    with Content(path) as content:
        assert again.put(content, "exp/file", counted.append)
        assert sum(counted) == content.size
    again.close()
    done = Counter(operation for operation, _ in operations)
    assert 0 < done["upload_part"] <= 9 - there  # some were on their way when the others were listed
    assert done["create_multipart_upload"] == 0
    assert bucket.objects() == {"runs/exp/file": path.read_bytes()}
    assert bucket.unfinished() == []


def test_parts_of_another_file_are_replaced(bucket: Any, target: S3Target, tmp_path: Path) -> None:
    place = {"Bucket": bucket.name, "Key": "runs/exp/file"}
    begun = bucket.client.create_multipart_upload(**place, ChecksumAlgorithm="CRC64NVME")
    other = os.urandom(PART)
    checksum = Crc64()
    checksum.update(memoryview(other))
    bucket.client.upload_part(
        **place, UploadId=begun["UploadId"], PartNumber=1, Body=other, ChecksumCRC64NVME=parts.spelled(checksum)
    )
    path = a_file(tmp_path, 2 * PART)
    assert put(target, path)
    assert bucket.objects() == {"runs/exp/file": path.read_bytes()}
    assert bucket.unfinished() == []


def test_a_file_that_changes_on_the_way_is_not_put_together(bucket: Any, target: S3Target, tmp_path: Path) -> None:
    path = a_file(tmp_path, 3 * PART)

    def grow(count: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(CheckpointError, match="was changed while it was sent"):
        put(target, path, grow)
    assert bucket.objects() == {}
    assert put(target, path)
    assert bucket.objects() == {"runs/exp/file": path.read_bytes()}


@pytest.mark.parametrize("size", [1000, 2 * PART])
def test_what_another_wrote_meanwhile_is_not_replaced(
    bucket: Any, target: S3Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = a_file(tmp_path, size)
    head = S3Target._head

    def and_then_another_writes(self: S3Target, name: str) -> Reply | None:
        found = head(self, name)
        if found is None:
            bucket.client.put_object(Bucket=bucket.name, Key="runs/exp/file", Body=b"of another")
        return found

    monkeypatch.setattr(S3Target, "_head", and_then_another_writes)
    with pytest.raises(CheckpointError, match="another object of the same name"):
        put(target, path)
    assert bucket.objects() == {"runs/exp/file": b"of another"}


@pytest.mark.parametrize("size", [1000, 2 * PART + 1])
def test_a_service_without_checksums_is_held_to_its_etags(
    bucket: Any, target: S3Target, tmp_path: Path, size: int
) -> None:
    target._checksums = False
    path = a_file(tmp_path, size)
    assert put(target, path)
    assert bucket.objects() == {"runs/exp/file": path.read_bytes()}
    assert not put(target, path)


def test_without_the_right_keys_nothing_is_sent(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-wrong-secret")
    target = S3Target(bucket.source(), Patience(2, 20))
    with pytest.raises(AccessDeniedError, match="s3:PutObject") as caught:
        put(target, a_file(tmp_path, 100))
    assert "wrong-secret" not in str(caught.value)
    target.close()


def test_a_bucket_that_is_not_there_is_named(bucket: Any, tmp_path: Path) -> None:
    target = S3Target(
        bucket.source().__class__("nowhere", "x/", endpoint=bucket.endpoint, addressing="path"), Patience(0)
    )
    with pytest.raises(CheckpointNotFoundError, match="no bucket 'nowhere'"):
        put(target, a_file(tmp_path, 100))
    target.close()


def test_a_full_service_is_called_full(target: S3Target) -> None:
    reply = Reply(507, {}, b"<Error><Code>XMinioStorageFull</Code></Error>")
    with pytest.raises(NoSpaceError, match="is full"):
        target.good(reply)


def test_documents_are_replaced_and_removed(bucket: Any, target: S3Target) -> None:
    assert target.read("net_cp=latest.json") is None
    for name in ("one", "other"):
        target.write("net_cp=latest.json", json.dumps(name).encode())
    assert target.read("net_cp=latest.json") == b'"other"'
    target.remove("net_cp=latest.json")
    target.remove("net_cp=latest.json")
    assert bucket.objects() == {}
