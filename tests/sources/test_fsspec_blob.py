import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from safetensors.torch import save
from sources.fault_server import FaultServer, _Handler

from preheat import inspect
from preheat.blob import Blob, Patience
from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    CheckpointTimeoutError,
    SourceChangedError,
    TruncatedError,
    UnsupportedFormatError,
)
from preheat.sources import attempts, fsspec_blob
from preheat.sources.fsspec import FsspecSource
from preheat.spelling import build, spell

CONTENT = os.urandom(300_000)
SIZE = len(CONTENT)


class HeadServer(FaultServer):
    """A web server that knows HEAD as well, as fsspec asks it."""

    def __init__(self) -> None:
        super().__init__()
        self._http.RequestHandlerClass = type("Handler", (_HeadHandler,), {"owner": self})


class _HeadHandler(_Handler):
    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def _send_body(self, answer: Any, body: bytes) -> None:
        if self.command != "HEAD":
            super()._send_body(answer, body)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(fsspec_blob, "BLOCK", 100_000)
    yield
    MemoryFileSystem.store.clear()


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with HeadServer().running() as running:
        running.serve("/a/model.ckpt", CONTENT)
        yield running


@pytest.fixture(params=["file", "memory", "zip", "http"])
def url(request: pytest.FixtureRequest, tmp_path: Path, server: FaultServer) -> str:
    """The same content in filesystems of all kinds: synchronous, without files, in another file, asynchronous."""
    if request.param == "http":
        return server.origin + "/a/model.ckpt?signature=secret"
    if request.param == "memory":
        MemoryFileSystem().pipe_file("/a/model.ckpt", CONTENT)
        return "memory://a/model.ckpt"
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
            archive.writestr("a/model.ckpt", CONTENT)
        return f"zip://a/model.ckpt::file://{tmp_path}/archive.zip"
    (tmp_path / "model.ckpt").write_bytes(CONTENT)
    return f"file://{tmp_path}/model.ckpt"


def open_blob(url: str, retries: int = 1, timeout: float = 5, **options: Any) -> Blob:
    return FsspecSource(url, options).open(Patience(retries, timeout))


def collect(blob: Blob, start: int, stop: int, buffer: int = 65_536) -> bytes:
    return b"".join(bytes(view) for view in blob.stream(start, stop, memoryview(bytearray(buffer))))


def test_any_range_is_read_exactly(url: str) -> None:
    blob = open_blob(url)
    assert (blob.size, blob.uri) == (SIZE, url.partition("?")[0])
    for start, stop in ((0, SIZE), (0, 0), (5, 200_001), (SIZE - 1, SIZE), (SIZE, SIZE)):
        assert blob.read(start, stop) == CONTENT[start:stop]
        assert collect(blob, start, stop) == CONTENT[start:stop]
    assert blob.fetched == 2 * (SIZE + 199_996 + 1)
    with pytest.raises(TruncatedError):
        blob.read(0, SIZE + 1)
    blob.close()


def test_threads_share_a_blob(url: str) -> None:
    blob = open_blob(url)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda at: blob.read(at, at + 10_000), range(0, SIZE, 10_000)))
    assert b"".join(parts) == CONTENT
    blob.close()
    with pytest.raises(CheckpointSourceError, match="closed while it was read"):
        blob.read(0, 1)


def test_a_missing_file_is_named(url: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match="there is no such file") as caught:
        open_blob(url.replace("model.ckpt", "model.pt"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["file", "memory", "http"], indirect=True)
def test_a_replaced_file_is_refused_also_in_the_middle_of_a_range(
    url: str, server: FaultServer, tmp_path: Path
) -> None:
    blob = open_blob(url)
    stream = blob.stream(0, SIZE, memoryview(bytearray(50_000)))
    assert bytes(next(stream)) == CONTENT[:50_000]
    other = CONTENT[::-1]
    if url.startswith("http"):
        server.serve("/a/model.ckpt", other)
    else:
        filesystem, path = fsspec.url_to_fs(url)
        filesystem.pipe_file(path, other)
    with pytest.raises(SourceChangedError, match="was replaced while it was read"):
        list(stream)
    blob.close()


def test_the_version_is_the_best_that_the_storage_knows(tmp_path: Path, server: FaultServer) -> None:
    (tmp_path / "m").write_bytes(CONTENT)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "m", "m")
    MemoryFileSystem().pipe_file("/m", CONTENT)
    versions = []
    for url in (
        server.origin + "/a/model.ckpt",
        f"zip://m::file://{tmp_path}/z.zip",
        "memory://m",
        f"file://{tmp_path}/m",
    ):
        blob = open_blob(url)
        versions.append(blob.version.partition(":")[0])
        blob.close()
    assert versions == ["etag", "checksum", "modified", "modified"]


def test_a_storage_that_tells_no_version_is_refused(server: FaultServer) -> None:
    server.always(without=("ETag", "Last-Modified"))
    with pytest.raises(CheckpointSourceError, match="neither checksum nor time"):
        open_blob(server.origin + "/a/model.ckpt")


def test_a_storage_without_ranges_is_refused(server: FaultServer) -> None:
    blob = open_blob(server.origin + "/a/model.ckpt")
    server.always(ignore_range=True)
    with pytest.raises(CheckpointSourceError, match="does not serve byte ranges"):
        blob.read(0, 10)
    blob.close()


def test_a_passing_fault_is_tried_again(server: FaultServer) -> None:
    blob = open_blob(server.origin + "/a/model.ckpt", retries=2)
    server.next(2, status=503)
    assert blob.read(0, 1000) == CONTENT[:1000]
    server.next(drop=True)
    assert blob.read(0, 1000) == CONTENT[:1000]
    blob.close()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 403}, AccessDeniedError),
        ({"status": 404}, CheckpointNotFoundError),
        ({"status": 500}, CheckpointSourceError),
        ({"stall_after": 0}, CheckpointTimeoutError),
        ({"drop": True}, CheckpointSourceError),
    ],
    ids=str,
)
def test_a_lasting_fault_is_named(server: FaultServer, fault: dict[str, Any], error: type[CheckpointError]) -> None:
    url = server.origin + "/a/model.ckpt?signature=secret"
    blob = open_blob(url, timeout=1)
    server.always(**fault)
    with pytest.raises(error) as caught:
        blob.read(0, 1000)
    assert type(caught.value) is error
    assert "secret" not in str(caught.value)
    blob.close()


def test_a_server_that_nobody_answers_for_is_not_called_a_missing_file() -> None:
    with pytest.raises(CheckpointSourceError, match="Connect") as caught:
        open_blob("http://127.0.0.1:9/x", retries=0)
    assert caught.value.reason == "SourceUnreachable"


def test_only_what_is_asked_for_travels_where_a_filesystem_would_read_ahead(tmp_path: Path) -> None:
    """Most synchronous filesystems inherit a read that fetches 5 MiB for every range."""
    read: list[int] = []

    class Counting(AbstractFileSystem):
        protocol = "counting"

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "type": "file", "size": 100 << 20, "mtime": 1}

        def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
            from fsspec.spec import AbstractBufferedFile

            class Opened(AbstractBufferedFile):
                def _fetch_range(self, start: int, end: int) -> bytes:
                    read.append(end - start)
                    return bytes(end - start)

            return Opened(self, path, mode, **kwargs)

    fsspec.register_implementation("counting", Counting)
    blob = open_blob("counting://m")
    assert blob.read(1 << 20, (1 << 20) + 1000) == bytes(1000)
    assert read == [1000]
    blob.close()


def test_a_filesystem_with_a_single_connection_is_asked_by_one_thread_at_a_time() -> None:
    asked, together = threading.Lock(), []

    class Single(AbstractFileSystem):
        protocol = "single"

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "type": "file", "size": SIZE, "mtime": 1}

        def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
            if not asked.acquire(blocking=False):
                together.append(start)
                return CONTENT[start:end]
            os.sched_yield()
            content = CONTENT[start:end]
            asked.release()
            return content

    fsspec.register_implementation("single", Single)
    blob = open_blob("single://m")
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda at: blob.read(at, at + 1000), range(0, SIZE, 1000)))
    assert b"".join(parts) == CONTENT
    assert together == []
    blob.close()


def test_a_checkpoint_in_shards_is_found_in_its_folder() -> None:
    filesystem = MemoryFileSystem()
    filesystem.pipe_file("/run/1.safetensors", save({"a": torch.arange(4.0)}))
    filesystem.pipe_file("/run/2.safetensors", save({"b": torch.ones(3)}))
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    filesystem.pipe_file("/run/model.safetensors.index.json", json.dumps(index).encode())
    for url in ("memory://run/", "memory://run/model.safetensors.index.json"):
        assert set(inspect(FsspecSource(url)).tensors) == {"a", "b"}
    with pytest.raises(UnsupportedFormatError, match="End its URL in a slash"):
        open_blob("memory://run")


def test_what_is_beside_a_file_is_beside_it_in_its_archive_too() -> None:
    assert FsspecSource("gs://b/run/m.ckpt").beside("x").uri == "gs://b/run/x"
    assert FsspecSource("gs://b/run/").beside("x").uri == "gs://b/run/x"
    assert FsspecSource("zip://run/m::gs://b/a.zip").beside("x").uri == "zip://run/x::gs://b/a.zip"


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(CheckpointConfigError, match=r"gs://.*gcsfs.*loader's image"):
        open_blob("gs://bucket/model.ckpt")
    with pytest.raises(CheckpointConfigError, match=r"[Pp]rotocol not known.*scheme"):
        open_blob("floppy://a/model.ckpt")
    with pytest.raises(CheckpointConfigError, match="`options`"):
        open_blob("zip://a::memory://b", fo=1)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sftp://me:hunter2@host/m", {}),
        ("zip://a::sftp://me:hunter2@host/m", {}),
        ("gs://b/m", {"token": "hunter2"}),
        ("abfs://c/m", {"account_key": "hunter2"}),
        ("s3://b/m", {"key": "a", "secret": "hunter2"}),
        ("s3://b/m", {"client_kwargs": {"aws_session_token": "hunter2"}}),
        ("http://h/m", {"headers": {"Authorization": "hunter2"}}),
        ("gs://b/m", {"proxy": "http://me:hunter2@proxy"}),
    ],
)
def test_credentials_in_the_resource_are_refused_unquoted(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(CheckpointConfigError, match=r"serviceAccountName") as caught:
        FsspecSource(url, options)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("abfs://container@account.dfs.core.windows.net/m", {"account_name": "account", "anon": False}),
        ("gs://b/m", {"token": "anon", "project": "p"}),
        ("sftp://me@host/m", {"port": 2222}),
    ],
)
def test_options_that_are_no_credentials_survive_both_spellings(url: str, options: dict[str, Any]) -> None:
    source = FsspecSource(url, options)
    assert build(spell(source)) == source
    assert build({"_target_": "preheat.sources.FsspecSource", "url": url, "options": options}) == source


def test_a_filesystem_that_runs_templates_is_refused() -> None:
    for url in ("reference://x", "zip://a::reference://b"):
        with pytest.raises(CheckpointConfigError, match="templates"):
            FsspecSource(url)


def test_fsspec_is_imported_only_when_it_is_used() -> None:
    code = (
        "import sys, preheat.loader; from preheat.sources import FsspecSource; FsspecSource('gs://b/k');"
        "assert not {'fsspec', 'asyncio'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
