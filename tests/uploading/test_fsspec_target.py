"""Storages that fsspec writes to: one that renames, and one in which a file appears when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from uploading.checkpoints_to_send import point, save, tree

from preheat.blob import Patience
from preheat.errors import CheckpointConfigError, CheckpointError, CheckpointValidationError
from preheat.sources import attempts
from preheat.sources.fsspec import FsspecSource
from preheat.uploading.content import Content
from preheat.uploading.finished import Rest
from preheat.uploading.shipping import Shipping
from preheat.uploading.target import Target
from preheat.uploading.targets import target_of

NAME = "net_cp=E1_U10_S100"


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    place = f"{tmp_path}/there" if request.param == "file" else f"/runs-{os.urandom(4).hex()}"
    yield f"{request.param}://{place}"
    files = fsspec.filesystem(request.param)
    if files.exists(place):
        files.rm(place, recursive=True)


@pytest.fixture
def target(url: str) -> Iterator[Target]:
    found = target_of(FsspecSource(url), Patience(2, 10))
    yield found
    found.close()


def there(url: str) -> dict[str, bytes]:
    """Every file below the target."""
    files, place = fsspec.core.url_to_fs(url)
    if not files.exists(place):
        return {}
    return {path.removeprefix(place).lstrip("/"): files.cat_file(path) for path in files.find(place)}


def test_a_checkpoint_and_what_points_to_it_arrive(url: str, target: Target, tmp_path: Path) -> None:
    home = tmp_path / "here"
    save(home, NAME, size=700_000)
    point(home, "latest", NAME)
    shipping = Shipping(home, target)
    assert shipping.look(Rest(0)), shipping.account.error
    assert there(url) == tree(home)


def test_what_is_there_is_not_sent_again(url: str, target: Target, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(300_000))
    counted: list[int] = []
    with Content(path) as content:
        assert target.put(content, "exp/weights", counted.append)
        assert sum(counted) == 300_000
        assert not target.put(content, "exp/weights", counted.append)
    assert there(url) == {"exp/weights": path.read_bytes()}


def test_documents_are_replaced_read_and_removed(url: str, target: Target) -> None:
    assert target.read("exp/net_cp=latest.json") is None
    for document in (b"one", b"another"):
        target.write("exp/net_cp=latest.json", document)
        assert target.read("exp/net_cp=latest.json") == document
    target.remove("exp/net_cp=latest.json")
    target.remove("exp/net_cp=latest.json")
    assert there(url) == {}


def test_damage_is_found_after_the_file_has_arrived(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(300_000))
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.implementations.memory import MemoryFileSystem

    def damaged(self: object, local: str, remote: str, **_: object) -> None:
        with self.open(remote, "wb") as file:  # type: ignore[attr-defined]
            file.write(Path(local).read_bytes()[:-1] + b"x")

    for each in (LocalFileSystem, MemoryFileSystem):
        monkeypatch.setattr(each, "put_file", damaged)
    with Content(path) as content, pytest.raises(CheckpointValidationError, match="not there as it was sent"):
        target.put(content, "weights", lambda _: None)


def test_a_storage_that_refuses_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointConfigError, match="chain"):
        target_of(FsspecSource("zip://a::memory://runs.zip"), Patience())
    with pytest.raises(CheckpointError, match="nosuch"):
        target_of(FsspecSource("nosuch://runs"), Patience())
