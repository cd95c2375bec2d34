import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from uploading.checkpoints_to_send import save, tree
from uploading.put_server import PutServer

from preheat.blob import Patience
from preheat.errors import (
    AccessDeniedError,
    CheckpointError,
    CheckpointSourceError,
    CheckpointValidationError,
    NoSpaceError,
)
from preheat.sources import attempts
from preheat.sources.http import HTTPSource
from preheat.uploading.content import Content
from preheat.uploading.finished import Rest
from preheat.uploading.shipping import Shipping
from preheat.uploading.target import Target
from preheat.uploading.targets import target_of

NAME = "net_cp=E1_U10_S100"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("PREHEAT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[PutServer]:
    with PutServer().running() as running:
        yield running


@pytest.fixture
def target(server: PutServer) -> Iterator[Target]:
    found = target_of(HTTPSource(f"{server.url}/runs/"), Patience(2, 10))
    yield found
    found.close()


@pytest.fixture
def content(tmp_path: Path) -> Iterator[Content]:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3_000_000))
    with Content(path) as opened:
        yield opened


def put(target: Target, content: Content) -> int:
    """Bytes that the progress counted."""
    counted: list[int] = []
    target.put(content, "exp/file 1", counted.append)
    return sum(counted)


def test_a_checkpoint_arrives_with_its_manifest_last(server: PutServer, target: Target, tmp_path: Path) -> None:
    folder = save(tmp_path / "here", NAME, size=700_000)
    shipping = Shipping(tmp_path / "here", target)
    assert shipping.look(Rest(0)), shipping.account.error
    assert server.files == {f"/runs/{NAME}/{name}": data for name, data in tree(folder).items()}
    assert [path.rpartition("/")[2] for method, path in server.asked if method == "PUT"] == [
        "model.safetensors", "state.json", "manifest.json",
    ]  # fmt: skip


@pytest.mark.parametrize("fault", [{"status": 503}, {"cut_after": 1_000_000}, {"cut_after": 0}])
def test_what_may_pass_is_tried_again(
    server: PutServer, target: Target, content: Content, fault: dict[str, int]
) -> None:
    server.next(2, **fault)
    assert put(target, content) == content.size  # counted once, however often it was sent
    assert server.files["/runs/exp/file%201"] == content.read()


def test_a_server_that_never_recovers_is_given_up(server: PutServer, target: Target, content: Content) -> None:
    server.next(3, status=500)
    with pytest.raises(CheckpointSourceError, match="500"):
        put(target, content)


def test_damage_on_the_way_is_found_by_reading_back(server: PutServer, target: Target, content: Content) -> None:
    server.next(flip=True)
    with pytest.raises(CheckpointValidationError, match="not there as it was sent"):
        put(target, content)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 507}, NoSpaceError),
        ({"status": 413}, NoSpaceError),
        ({"status": 403}, AccessDeniedError),
        ({"status": 403, "deaf": True}, AccessDeniedError),  # while we send
        ({"status": 405}, CheckpointSourceError),
    ],
)
def test_refusals_say_what_they_are(
    server: PutServer, target: Target, content: Content, fault: dict[str, int], error: type[CheckpointError]
) -> None:
    server.next(3, **fault)
    with pytest.raises(error, match=str(fault["status"])):
        put(target, content)


def test_a_file_that_is_there_is_not_sent_again(server: PutServer, target: Target, content: Content) -> None:
    put(target, content)
    server.asked.clear()
    assert put(target, content) == content.size
    assert not [path for method, path in server.asked if method == "PUT"]


def test_folders_of_webdav_are_made(content: Content) -> None:
    with PutServer(collections=True).running() as server:
        target = target_of(HTTPSource(f"{server.url}/"), Patience(2, 10), "size")
        target.put(content, "a/b/c", lambda count: None)
        assert server.files["/a/b/c"] == content.read()
        target.close()


def test_a_token_goes_with_every_request(server: PutServer, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "secret-token-123"
    monkeypatch.setenv("PREHEAT_HTTP_TOKEN", server.token)
    target = target_of(HTTPSource(f"{server.url}/runs"), Patience(0, 10))
    target.put(content, "file", lambda count: None)
    target.write("document.json", b"{}")
    assert target.read("document.json") == b"{}"
    target.remove("document.json")
    assert target.read("document.json") is None
    target.remove("document.json")
    target.close()


def test_a_file_that_is_written_to_while_it_is_sent_is_not_finished(
    server: PutServer, target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "here" / "last.ckpt"
    path.parent.mkdir()
    path.write_bytes(os.urandom(2_000_000))
    shipping = Shipping(path.parent, target)

    def grow(count: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with Content(path) as content, pytest.raises(CheckpointSourceError, match="was changed while it was sent"):
        target.put(content, "last.ckpt", grow)
    assert shipping.look(Rest(0))
    assert server.files["/runs/last.ckpt"] == path.read_bytes()
