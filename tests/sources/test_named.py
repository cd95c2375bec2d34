"""A checkpoint by its name: cache directory, bucket, error; linnaeus' promises kept."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sources.fault_server import FaultServer

from preheat import resolve_checkpoint_path
from preheat.blob import Patience
from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    TruncatedError,
)
from preheat.sources import attempts
from preheat.sources.http import HTTPSource
from preheat.sources.local import LocalSource
from preheat.sources.named import NamedSource
from preheat.sources.s3 import S3Source
from preheat.spelling import build, spell
from preheat.verbs.resolution import bucket_of

NAME = "convnext_tiny_22k_1k_384.pth"
CONTENT = os.urandom(3 << 20)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve(f"/modelZoo/{NAME}", CONTENT)
        yield running


def zoo(server: FaultServer) -> HTTPSource:
    return HTTPSource(f"{server.origin}/modelZoo/", anonymous=True)


def read(source: NamedSource) -> tuple[str, bytes]:
    blob = source.open(Patience(0, 5))
    try:
        return blob.uri, blob.read(0, blob.size)
    finally:
        blob.close()


def put(folder: Path, name: str = NAME, content: bytes = b"here") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def test_the_cache_directory_is_asked_first_and_the_bucket_only_then(tmp_path: Path, server: FaultServer) -> None:
    source = NamedSource(NAME, str(tmp_path), zoo(server))
    assert read(source) == (f"{server.origin}/modelZoo/{NAME}", CONTENT)
    server.requests.clear()
    path = put(tmp_path)
    assert read(source) == (str(path), b"here")
    assert server.requests == [], "with the file here nothing else is asked"


def test_an_absolute_path_is_that_path(tmp_path: Path) -> None:
    path = put(tmp_path / "elsewhere")
    assert read(NamedSource(str(path), str(tmp_path))) == (str(path), b"here")
    with pytest.raises(CheckpointNotFoundError, match=r"there is no file /nowhere/x\.pth"):
        read(NamedSource("/nowhere/x.pth", str(tmp_path)))


def test_a_name_is_found_at_any_depth_and_in_several_folders_it_is_an_error(tmp_path: Path) -> None:
    """Upstream takes the first that the directory gives."""
    path = put(tmp_path / "a" / "b")
    assert read(NamedSource(NAME, str(tmp_path)))[0] == str(path)
    assert read(NamedSource(f"b/{NAME}", str(tmp_path)))[0] == str(path)
    other = put(tmp_path / "c")
    with pytest.raises(CheckpointConfigError, match=rf"is there 2 times: {path}, {other}\. Name its path below"):
        read(NamedSource(NAME, str(tmp_path)))
    right_here = put(tmp_path)
    assert read(NamedSource(NAME, str(tmp_path)))[0] == str(right_here)


@pytest.mark.parametrize(
    "name", ["*.pth", "convnext_*", "[c]onvnext_tiny_22k_1k_384.pth", "convnext_tiny_22k_1k_384.pt?"]
)
def test_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    put(tmp_path)
    with pytest.raises(CheckpointNotFoundError):
        read(NamedSource(name, str(tmp_path)))
    assert read(NamedSource(name, str(tmp_path / put(tmp_path / "odd", name).parent)))[1] == b"here"


@pytest.mark.parametrize(
    "name", ["../x.pth", "a/../../x.pth", "./x.pth", "a//b", "..", ".", "a/", "a\\b", "a\nb", "/a/../b"]
)
def test_a_name_does_not_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointConfigError, match="is no name of a file"):
        NamedSource(name, str(tmp_path))


def test_a_url_is_no_name() -> None:
    with pytest.raises(CheckpointConfigError, match="is a URL") as caught:
        NamedSource("https://h/x.pth?signature=secret", "/cache")
    assert "secret" not in str(caught.value)


def test_when_it_is_nowhere_the_error_lists_what_was_tried(tmp_path: Path, server: FaultServer) -> None:
    """Upstream returns None, and the caller trains from random weights."""
    with pytest.raises(
        CheckpointNotFoundError, match=rf"'x\.pth' was not found; tried {tmp_path}, .*no bucket.*Copy the"
    ):
        read(NamedSource("x.pth", str(tmp_path)))
    with pytest.raises(CheckpointNotFoundError, match=rf"tried {tmp_path}/none, .*; {server.origin}/modelZoo/: .*404"):
        read(NamedSource("x.pth", str(tmp_path / "none"), zoo(server)))
    with pytest.raises(CheckpointNotFoundError, match=r"tried no cache directory.*404"):
        read(NamedSource("x.pth", bucket=zoo(server)))
    server.always(status=403)
    with pytest.raises(AccessDeniedError, match=rf"tried {tmp_path}, .*403"):
        read(NamedSource("x.pth", str(tmp_path), zoo(server)))
    with pytest.raises(CheckpointConfigError, match="is looked for nowhere"):
        NamedSource("x.pth")


def test_a_folder_of_that_name_is_no_file(tmp_path: Path, server: FaultServer) -> None:
    """Upstream takes it. Here one that holds a checkpoint is a checkpoint, and any other says so."""
    (tmp_path / NAME).mkdir()
    none = rf"folder {tmp_path / NAME}/ has none of the files"
    with pytest.raises(CheckpointNotFoundError, match=none):
        read(NamedSource(NAME, str(tmp_path), zoo(server)))
    with pytest.raises(CheckpointNotFoundError, match=none):
        resolve_checkpoint_path(NAME, tmp_path, zoo(server))
    put(tmp_path / NAME, "model.safetensors")
    assert resolve_checkpoint_path(NAME, tmp_path) == str(tmp_path / NAME)
    assert server.requests == []


def test_half_a_file_of_another_programs_is_not_taken(tmp_path: Path) -> None:
    put(tmp_path, content=b"")
    put(tmp_path, f"{NAME}.part")
    put(tmp_path, f".{NAME}.partial-00")
    with pytest.raises(CheckpointNotFoundError):
        read(NamedSource(NAME, str(tmp_path)))


def test_both_spellings_build_it_and_it_is_spelled_as_it_was_written() -> None:
    stage = {
        "named": {
            "name": NAME,
            "cacheDir": "/models",
            "bucket": {"s3": {"bucket": "zoo", "key": "modelZoo/", "secretRef": "b2"}},
        }
    }
    source = build(stage)
    assert source == NamedSource(NAME, "/models", S3Source("zoo", "modelZoo/", secret_ref="b2"))
    assert spell(source) == stage
    assert source.uri == f"{NAME} in /models, else in s3://zoo/modelZoo/"
    assert {secret for secret, _ in source.secrets} == {"b2"}
    assert (source.in_pod, NamedSource(NAME, "/models").in_pod, NamedSource("/a/b").in_pod) == (False, True, True)
    assert not source.same_everywhere
    assert source.beside("x.sig") == NamedSource("x.sig", "/models", S3Source("zoo", "modelZoo/", secret_ref="b2"))
    with pytest.raises(CheckpointConfigError, match="Verify names no folder"):
        build({"named": {"name": NAME, "bucket": {"verify": {}}}})


# resolve_checkpoint_path, as in linnaeus' document


def test_what_is_here_is_a_path(tmp_path: Path) -> None:
    path = put(tmp_path)
    assert resolve_checkpoint_path(NAME, str(tmp_path), {"ENABLED": False}) == str(path)
    assert resolve_checkpoint_path(str(path)) == str(path)
    assert resolve_checkpoint_path(NAME, tmp_path, None) == str(path)


@pytest.mark.parametrize("identifier", [None, ""])
def test_no_name_is_an_error(identifier: Any, tmp_path: Path) -> None:
    """Upstream answers None with None."""
    with pytest.raises(CheckpointConfigError, match="no checkpoint is named"):
        resolve_checkpoint_path(identifier, tmp_path)


def test_with_the_bucket_off_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no bucket"):
        resolve_checkpoint_path(NAME, tmp_path, {"ENABLED": False, "NAME": "linnaeus-checkpoints"})


def test_what_is_not_here_is_fetched_whole_and_stays(tmp_path: Path, server: FaultServer) -> None:
    cache = tmp_path / "not" / "there yet"
    path = resolve_checkpoint_path(NAME, cache, zoo(server))
    assert path == str(cache / NAME)
    assert Path(path).read_bytes() == CONTENT
    server.always(status=500)
    assert resolve_checkpoint_path(NAME, cache, zoo(server)) == path, "air-gapped from now on"
    assert os.listdir(cache) == [NAME]


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, server: FaultServer) -> None:
    server.next()
    server.always(cut_after=1000)
    with pytest.raises((CheckpointSourceError, TruncatedError)):
        resolve_checkpoint_path(NAME, tmp_path, zoo(server), patience=Patience(0, 5))
    assert os.listdir(tmp_path) == []


def test_whoever_looks_while_others_fetch_sees_a_whole_file_or_none(tmp_path: Path, server: FaultServer) -> None:
    seen: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            if (tmp_path / NAME).exists():
                seen.add((tmp_path / NAME).stat().st_size)

    def fetch() -> None:
        results.append(resolve_checkpoint_path(NAME, tmp_path, zoo(server)))

    results: list[str] = []
    watcher = threading.Thread(target=look)
    fetchers = [threading.Thread(target=fetch) for _ in range(3)]
    watcher.start()
    for thread in fetchers:
        thread.start()
    for thread in fetchers:
        thread.join()
    done.set()
    watcher.join()
    assert results == [str(tmp_path / NAME)] * 3
    assert seen <= {len(CONTENT)}
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize(
    ("described", "meant"),
    [
        (
            {"ENABLED": True, "NAME": "linnaeus-checkpoints", "PATH_PREFIX": "modelZoo/"},
            ("linnaeus-checkpoints", "modelZoo/"),
        ),
        ({"ENABLED": True, "BUCKET": "ibrida-1", "REMOTE": "ibrida", "APP_KEY": "k"}, ("ibrida-1", "modelZoo/")),
        ({"ENABLED": True, "NAME": "b", "PATH_PREFIX": ""}, ("b", "/")),
        ("s3://b/zoo/", ("b", "zoo/")),
        ({"s3": {"bucket": "b", "key": "zoo/"}}, ("b", "zoo/")),
    ],
    ids=str,
)
def test_buckets_as_both_of_linnaeus_settings_and_as_sources(described: Any, meant: tuple[str, str]) -> None:
    place = bucket_of(described)
    assert isinstance(place, S3Source)
    assert (place.bucket, place.key) == meant
    assert place.below("x.pth").uri == f"s3://{meant[0]}/{meant[1].lstrip('/')}x.pth"


def test_a_bucket_without_a_name_is_refused(tmp_path: Path) -> None:
    assert bucket_of({"ENABLED": False}) is None
    assert bucket_of(str(tmp_path)) == LocalSource(str(tmp_path))
    with pytest.raises(CheckpointError, match="has no NAME"):
        bucket_of({"ENABLED": True})
