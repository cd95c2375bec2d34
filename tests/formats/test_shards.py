"""Checkpoints in several files, joined: from a disk, a web server and a bucket."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from formats.samples import BytesBlob
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sources.fault_server import FaultServer

from preheat.blob import Patience
from preheat.bundle.store import Store
from preheat.errors import CheckpointError, CheckpointLoadError, CheckpointNotFoundError, CheckpointValidationError
from preheat.formats import read_index
from preheat.joined_blob import JoinedBlob
from preheat.prepare import prepare
from preheat.sources.http import HTTPSource
from preheat.sources.local import LocalSource
from preheat.spec import parse

TENSORS = {f"layer.{i}.weight": torch.randn(30, 7 + i) for i in range(9)} | {"step": torch.tensor(3)}


def save_sharded(
    folder: Path, tensors: dict[str, torch.Tensor], count: int = 3, extension: str = "safetensors"
) -> Path:
    """What `save_pretrained` leaves: shards and an index."""
    stem = "model" if extension == "safetensors" else "pytorch_model"
    names = list(tensors)
    weight_map = {}
    for shard in range(count):
        file = f"{stem}-{shard + 1:05}-of-{count:05}.{extension}"
        part = {name: tensors[name] for name in names[shard::count]}
        if extension == "safetensors":
            save_file(part, folder / file, {"format": "pt"})
        else:
            torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{extension}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.fixture(scope="module", params=["safetensors", "bin"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param)
    save_sharded(made, TENSORS, extension=request.param)
    return made


@pytest.fixture
def server(folder: Path) -> Iterator[FaultServer]:
    with FaultServer().running() as serving:
        for path in folder.iterdir():
            serving.serve(f"/models/a%20b/{path.name}", path.read_bytes())
        yield serving


def loaded(stage: dict[str, object], volume: Path) -> dict[str, torch.Tensor]:
    outcome = prepare(parse({"stages": [stage]}), Store(volume), "me")
    return load_file(outcome.folder / "model.safetensors")


def assert_equal(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_a_local_folder_is_one_checkpoint(folder: Path, tmp_path: Path) -> None:
    assert_equal(loaded({"local": {"path": str(folder)}}, tmp_path))


def test_the_index_of_a_folder_names_the_same_checkpoint(folder: Path, tmp_path: Path) -> None:
    [index] = folder.glob("*.index.json")
    assert_equal(loaded({"local": {"path": str(index)}}, tmp_path))


def test_a_folder_behind_a_url_is_one_checkpoint(server: FaultServer, tmp_path: Path) -> None:
    assert_equal(loaded({"http": {"url": f"{server.origin}/models/a%20b/"}}, tmp_path))
    asked = {request.path for request in server.requests}
    assert "/models/a%20b/pytorch_model.bin" not in asked or "/models/a%20b/model.safetensors" in asked


def test_the_query_of_an_index_is_sent_for_every_file(server: FaultServer, folder: Path, tmp_path: Path) -> None:
    [index] = folder.glob("*.index.json")
    assert_equal(loaded({"http": {"url": f"{server.origin}/models/a%20b/{index.name}?sig=1"}}, tmp_path))
    assert all(request.path.endswith("?sig=1") for request in server.requests)


def test_one_file_in_a_folder_is_found_by_its_usual_name(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    blob = LocalSource(str(tmp_path)).open(Patience())
    assert blob.uri.endswith("/model.safetensors")
    blob.close()


def test_a_folder_without_a_checkpoint_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "epoch=3.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointNotFoundError, match=r"pytorch_model\.bin.*in it are 'epoch=3\.ckpt'"):
        LocalSource(str(tmp_path)).open(Patience())
    with FaultServer().running() as server, pytest.raises(CheckpointNotFoundError, match=r"has none of the files"):
        HTTPSource(server.origin + "/x/").open(Patience(0, 5))


def test_another_version_of_any_file_is_another_version_of_the_folder(tmp_path: Path) -> None:
    index = save_sharded(tmp_path, TENSORS)
    blob = LocalSource(str(index)).open(Patience())
    again = LocalSource(str(index)).open(Patience())
    assert blob.version == again.version
    save_file({name: TENSORS[name] for name in list(TENSORS)[1::3]}, tmp_path / "model-00002-of-00003.safetensors")
    changed = LocalSource(str(index)).open(Patience())
    assert changed.version != blob.version
    for each in (blob, again, changed):
        each.close()


def break_index(folder: Path, **changes: object) -> str:
    index = save_sharded(folder, TENSORS)
    document = json.loads(index.read_text())
    document["weight_map"] |= changes
    index.write_text(json.dumps({**document, "weight_map": {k: v for k, v in document["weight_map"].items() if v}}))
    return str(index)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"ghost": "model-00001-of-00003.safetensors"}, CheckpointValidationError, "'ghost' is in .* no such tensor"),
        ({"step": ""}, CheckpointValidationError, "holds 'step', which the index does not place there"),
        ({"ghost": "gone.safetensors"}, CheckpointNotFoundError, r"gone\.safetensors"),
        ({"ghost": "../secret.safetensors"}, CheckpointLoadError, "not in its folder"),
        ({"ghost": "/etc/passwd"}, CheckpointLoadError, "not in its folder"),
        ({"ghost": "a/../../b"}, CheckpointLoadError, "not in its folder"),
        ({"ghost": "a\\b"}, CheckpointLoadError, "not in its folder"),
        ({"ghost": 7}, CheckpointLoadError, "no weight_map"),
    ],
)
def test_an_index_that_its_files_do_not_bear_out_is_refused(
    tmp_path: Path, changes: dict[str, object], error: type[CheckpointError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_index(LocalSource(break_index(tmp_path, **changes)).open(Patience()))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"weight_map": {}}', b'{"weight_map": {"a": "b", "a": "c"}}'])
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises((CheckpointLoadError, CheckpointValidationError)):
        LocalSource(str(tmp_path)).open(Patience())


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    index = save_sharded(tmp_path, TENSORS)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointLoadError, match="model-00002-of-00003"):
        read_index(LocalSource(str(index)).open(Patience()))


def test_more_files_than_a_process_may_usually_open_are_read(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = {f"t{i}": torch.tensor([float(i)]) for i in range(300)}
    index = save_sharded(tmp_path, many, count=300)
    others = [os.open(tmp_path, os.O_RDONLY) for _ in range(300)]  # a training has files of its own
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 150, before[1]))
    try:
        blob = LocalSource(str(index)).open(Patience())
        assert len(read_index(blob).tensors) == 300
        blob.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for other in others:
            os.close(other)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6), st.data())
def test_joined_blobs_read_like_their_concatenation(contents: list[bytes], data: st.DataObject) -> None:
    blob = JoinedBlob("x", [(str(at), BytesBlob(content)) for at, content in enumerate(contents)])
    whole = b"".join(contents)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    buffer = memoryview(bytearray(data.draw(st.integers(1, 9))))
    assert blob.size == len(whole)
    assert blob.read(start, stop) == whole[start:stop]
    assert b"".join(bytes(view) for view in blob.stream(start, stop, buffer)) == whole[start:stop]
