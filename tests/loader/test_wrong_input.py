"""Everything that can be wrong with a source or a volume: one clear line, a reason, an exit code, and no bundle."""

import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import Call, Member, StoredAs, checkpoint_of, pickled, repacked, saved, tensor_call, zip_of
from loader.loader_process import POD, Ended, bundles, load
from sources import s3_server
from sources.fault_server import FaultServer

from preheat import errors

GOOD = saved({"state_dict": {"w": torch.randn(400, 300), "v": torch.randn(1000)}, "epoch": 1})
EXIT_CODES = {
    error.reason: error.exit_code
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.CheckpointError)
}


@dataclass
class World:
    """What a case may use; `settings` go to the loader."""

    folder: Path
    server: FaultServer
    endpoint: Callable[[], str]
    settings: dict[str, Any] = field(default_factory=lambda: {"maxRetries": 0, "timeoutSeconds": 10})

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    def local(self, content: bytes) -> dict[str, Any]:
        (self.folder / "model.ckpt").write_bytes(content)
        return {"local": {"path": str(self.folder / "model.ckpt")}}

    def http(self, path: str = "/model.ckpt") -> dict[str, Any]:
        self.server.serve("/model.ckpt", GOOD)
        return {"http": {"url": self.server.origin + path}}

    def s3(self, key: str = "model.ckpt", bucket: str = "models", secret: str = s3_server.SECRET_KEY) -> dict[str, Any]:
        credentials = {"AWS_ACCESS_KEY_ID": s3_server.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret}
        self.settings.update(credentials, AWS_EC2_METADATA_DISABLED="true")
        return {"s3": {"bucket": bucket, "key": key, "endpoint": self.endpoint(), "addressing": "path"}}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if s3_server.executable() is None:
        pytest.skip("versitygw is not built; tests/cluster builds it")
    with s3_server.running(tmp_path_factory.mktemp("s3")) as endpoint:
        client = s3_server.client(endpoint)
        client.create_bucket(Bucket="models")
        client.put_object(Bucket="models", Key="model.ckpt", Body=GOOD)
        client.close()
        yield endpoint


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with FaultServer().running() as server:
        yield World(tmp_path, server, lambda: request.getfixturevalue("bucket"))


def timeout(world: World) -> dict[str, Any]:
    world.settings["timeoutSeconds"] = 0.5
    world.server.always(stall_after=0)
    return world.http()


def stalled(world: World) -> dict[str, Any]:
    world.settings["timeoutSeconds"] = 0.5
    world.server.next()
    world.server.always(stall_after=100)
    return world.http()


def dripping(world: World) -> dict[str, Any]:
    world.settings["timeoutSeconds"] = 0.5
    world.server.next()
    world.server.always(drip=0.02)
    return world.http()


def replaced(world: World) -> dict[str, Any]:
    world.server.next(2)
    world.server.always(headers={"ETag": '"another"'})
    return world.http()


def replaced_with_if_match(world: World) -> dict[str, Any]:
    world.server.next(2)
    world.server.always(status=412)
    return world.http()


def answering(**fault: Any) -> Callable[[World], dict[str, Any]]:
    def prepare(world: World) -> dict[str, Any]:
        world.server.always(**fault)
        return world.http()

    return prepare


def later(**fault: Any) -> Callable[[World], dict[str, Any]]:
    def prepare(world: World) -> dict[str, Any]:
        world.server.next()
        world.server.always(**fault)
        return world.http()

    return prepare


def content(of: bytes) -> Callable[[World], dict[str, Any]]:
    return lambda world: world.local(of)


def flipped(world: World) -> dict[str, Any]:
    at = len(GOOD) // 2
    return world.local(GOOD[:at] + bytes([GOOD[at] ^ 16]) + GOOD[at + 1 :])


def flipped_on_the_way(world: World) -> dict[str, Any]:
    world.server.always(flip=len(GOOD) // 2)
    return world.http()


def running_code(world: World) -> dict[str, Any]:
    call = Call(os.system, (f"touch {world.canary}",))
    return world.local(checkpoint_of(pickled({"state_dict": {"w": call}}), version=b"3\n"))


def running_code_beside_weights(world: World) -> dict[str, Any]:
    call = Call(os.system, (f"touch {world.canary}",))
    tree = {"state_dict": {"w": tensor_call()}, "hyper_parameters": call}
    return world.local(checkpoint_of(pickled(tree), {"0": bytes(16)}, version=b"3\n"))


def outside(**geometry: Any) -> bytes:
    return checkpoint_of(pickled({"state_dict": {"w": tensor_call(**geometry)}}), {"0": bytes(16)}, version=b"3\n")


def twice() -> bytes:
    tree = pickled({"state_dict": {"w": tensor_call()}})
    return zip_of([Member("a/data.pkl", tree), Member("a/data/0", bytes(16)), Member("a/data/0", b"\1" * 16)])


CASES: dict[str, tuple[Callable[[World], dict[str, Any]], str, str]] = {
    "missing file": (lambda world: {"local": {"path": str(world.folder / "no.ckpt")}}, "NotFound", "no.ckpt"),
    "a folder": (lambda world: {"local": {"path": str(world.folder)}}, "NotFound", "has none of the files that"),
    "missing URL": (lambda world: world.http("/no.ckpt"), "NotFound", "no.ckpt: the server answered 404"),
    "missing key": (lambda world: world.s3("no.ckpt"), "NotFound", "bucket 'models' has no key 'no.ckpt'"),
    "missing bucket": (lambda world: world.s3(bucket="nobody"), "NotFound", "there is no bucket 'nobody'"),
    "wrong credentials": (lambda world: world.s3(secret="wrong"), "AccessDenied", "answered 403"),
    "403": (answering(status=403), "AccessDenied", "answered 403"),
    "403 in the middle": (later(status=403), "AccessDenied", "answered 403"),
    "503 for ever": (answering(status=503), "SourceUnreachable", "answered 503"),
    "connection refused": (lambda _: {"http": {"url": "http://127.0.0.1:9/m"}}, "SourceUnreachable", "refused"),
    "unknown host": (lambda _: {"http": {"url": "http://nowhere.invalid/m"}}, "SourceUnreachable", "nowhere.invalid"),
    "no answer": (timeout, "Timeout", "does not answer"),
    "stalled": (stalled, "Timeout", "does not answer"),
    "dripping": (dripping, "Timeout", "no progress for 0.5 s"),
    "replaced": (replaced, "SourceChanged", "was replaced while it was read"),
    "replaced, refused by the server": (replaced_with_if_match, "SourceChanged", "was replaced while it was read"),
    "ranges ignored": (answering(ignore_range=True), "SourceUnreachable", "does not serve byte ranges"),
    "ranges ignored later": (later(ignore_range=True), "SourceUnreachable", "does not serve byte ranges"),
    "wrong range": (later(headers={"Content-Range": "bytes 1-2/3"}), "SourceChanged", "replaced"),
    "redirected to metadata": (
        answering(status=302, headers={"Location": "http://[::ffff:169.254.169.254]/"}), "SourceUnreachable", "",
    ),
    "redirected for ever": (
        answering(status=302, headers={"Location": "/model.ckpt"}), "SourceUnreachable", "redirects more than 5 times",
    ),
    "cut by the server": (later(cut_after=1000), "Truncated", "closed the connection at byte"),
    "empty": (content(b""), "UnreadableCheckpoint", "empty"),
    **{
        f"cut to {part} of 1000": (content(GOOD[: len(GOOD) * part // 1000]), "Truncated|UnreadableCheckpoint", "")
        for part in (1, 5, 100, 500, 900, 990, 998, 999)
    },
    "one byte short": (content(GOOD[:-1]), "Truncated|UnreadableCheckpoint|Corrupt", ""),
    "flipped bit": (flipped, "Corrupt", "tensor 'w' is corrupt: record"),
    "flipped bit on the way": (flipped_on_the_way, "Corrupt", "tensor 'w' is corrupt: record"),
    "text": (content(b"hello, this is no checkpoint\n" * 100), "UnsupportedFormat", "no known checkpoint format"),
    "a web page": (content(b"<!DOCTYPE html><html>Sign in</html>"), "UnsupportedFormat", "web page"),
    "noise": (content(os.urandom(50_000)), "UnsupportedFormat|UnreadableCheckpoint", ""),
    "gzip": (content(b"\x1f\x8b" + bytes(100)), "UnsupportedFormat", "gzip"),
    "code": (running_code, ".*", ""),
    "members twice": (content(twice()), "Corrupt|UnreadableCheckpoint", "twice|duplicate|a/data/0"),
    "compressed members": (content(repacked(GOOD, zipfile.ZIP_DEFLATED)), "UnsupportedFormat", "compress"),
    "tensor outside its storage": (content(outside(shape=(100,))), "Corrupt", "outside its storage"),
    "tensor before its storage": (content(outside(offset=-1)), "Corrupt|UnreadableCheckpoint|UnsupportedFormat", ""),
    "tensor without its storage": (
        content(outside(storage=StoredAs(key="7"))), "Truncated|Corrupt|UnreadableCheckpoint", "7",
    ),
    "NaN": (content(saved({"w": torch.tensor([1.0, torch.nan])})), "Corrupt", "tensor 'w' holds NaN or infinity"),
}  # fmt: skip


def assert_refused(ended: Ended, world: World, reason: str, said: str) -> None:
    import re

    assert re.fullmatch(reason, ended.message["reason"]), ended.log
    assert ended.code == EXIT_CODES[ended.message["reason"]]
    assert ended.message["outcome"] == "failed"
    assert re.search(said, ended.message["message"]), ended.log
    assert ended.message["message"]
    assert "\n" not in ended.message["message"]
    assert "Traceback" not in ended.log
    last = ended.log.strip().splitlines()[-1]
    assert ended.message["reason"] in last
    assert ended.message["message"] in last
    assert ended.message["remedy"] in last
    assert bundles(world.volume) == []
    assert not (world.volume / "pods" / POD).exists()


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_refused_with_a_reason_and_leaves_nothing(case: str, world: World) -> None:
    prepare, reason, said = CASES[case]
    source = prepare(world)
    ended = load([source, {"verify": {"finite": True}}, {"weightsOnly": {}}], world.volume, **world.settings)
    assert_refused(ended, world, reason, said)
    assert not world.canary.exists()


def test_a_wrong_digest_is_refused(world: World) -> None:
    stages = [world.local(GOOD), {"verify": {"sha256": "0" * 64}}, {"weightsOnly": {}}]
    assert_refused(load(stages, world.volume), world, "Corrupt", "has SHA-256 .* expects 000000")


def test_code_beside_the_weights_is_listed_and_not_run(world: World) -> None:
    stages = [running_code_beside_weights(world), {"weightsOnly": {}}]
    ended = load(stages, world.volume)
    assert not world.canary.exists()
    assert (ended.code == 0) == ("posix.system" in ended.log and not ended.message.get("reason")), ended.log


@pytest.fixture
def mounted(world: World) -> Iterator[Path]:
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    world.volume.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", world.volume], capture_output=True)
    if done.returncode:
        pytest.skip(f"this machine does not let root mount a tmpfs: {done.stderr.decode().strip()}")
    yield world.volume
    subprocess.run(["umount", world.volume], check=True)


@pytest.mark.usefixtures("mounted")
def test_a_full_volume_is_refused_before_a_byte_is_written(world: World) -> None:
    big = world.local(saved({"w": torch.zeros(2_000_000)}))
    assert_refused(load([big, {"weightsOnly": {}}], world.volume), world, "NoSpace", r"has [\d.]+ MB free and needs")


@pytest.mark.usefixtures("mounted")
def test_a_volume_without_inodes_or_room_for_names_is_refused(world: World) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=3", world.volume], check=True)
    assert_refused(load([world.local(GOOD), {"weightsOnly": {}}], world.volume), world, "NoSpace", "is full")


@pytest.mark.usefixtures("mounted")
def test_a_read_only_volume_is_refused(world: World) -> None:
    subprocess.run(["mount", "-o", "remount,ro", world.volume], check=True)
    ended = load([world.local(GOOD), {"weightsOnly": {}}], world.volume)
    assert_refused(ended, world, "StorageFailed", "Read-only file system")
