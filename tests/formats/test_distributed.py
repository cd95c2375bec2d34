"""torch.distributed.checkpoint folders, saved by torch itself, by one process and by four."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from formats import distributed_saves
from formats.samples import BytesBlob, Call, same, saved, value_of
from safetensors.torch import load_file
from sources.fault_server import FaultServer
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

import preheat
from preheat.blob import Blob, Patience
from preheat.bundle.store import Store
from preheat.errors import (
    CheckpointError,
    CheckpointLoadError,
    CheckpointNotFoundError,
    CheckpointValidationError,
    TruncatedError,
    UnsupportedFormatError,
)
from preheat.formats import read_index
from preheat.formats.folders import open_in
from preheat.index import Index, Tensor
from preheat.prepare import prepare
from preheat.sources.local import LocalSource
from preheat.spec import parse

Tree = dict[str, Any]


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks saved: one folder for each variant, and its whole tensors beside it."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, distributed_saves.__file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def save(folder: Path, tree: Tree) -> Path:
    """What one process saves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(tree, checkpoint_id=str(folder), no_dist=True)
    return folder


def read(folder: Path) -> tuple[Index, bytes]:
    with contextlib.closing(LocalSource(str(folder)).open(Patience())) as blob:
        return read_index(blob), blob.read(0, blob.size)


def index_of(folder: Path) -> Index:
    return read(folder)[0]


def assert_weights(folder: Path, expected: Tree, layout: str) -> None:
    index, content = read(folder)
    tensors = tensors_of(expected)
    assert (index.format, index.layout) == ("torch-distributed", layout)
    assert index.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert same(value_of(content, index.tensors[name]), tensor), name


def tensors_of(tree: Tree) -> dict[str, torch.Tensor]:
    return {name: value for name, value in tree.items() if isinstance(value, torch.Tensor)}


def assert_state(found: Any, expected: Any, content: bytes) -> None:
    """The tree of all the rest, its tensors with their values."""
    if isinstance(found, Tensor):
        assert same(value_of(content, found), expected)
    elif isinstance(found, dict):
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert_state(value, expected[key], content)
    elif isinstance(found, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_state(one, other, content)
    else:
        assert found == expected


#: By variant: its layout, and the weights among the whole tree.
VARIANTS: dict[str, tuple[str, Callable[[Tree], Tree]]] = {
    "fsdp": ("model", lambda tree: tree["model"]),
    "boxes": ("state_dict", lambda tree: tree["state_dict"]),
    "app": ("app.model", lambda tree: tree["app"]["model"]),
    "flat": ("raw", lambda tree: tree),
}


def whole_tree(sharded: Path, variant: str) -> Tree:
    tree: Tree = torch.load(sharded / f"{variant}.pt", weights_only=True)
    return tree


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_four_ranks_saved_is_one_checkpoint(sharded: Path, variant: str) -> None:
    layout, weights = VARIANTS[variant]
    assert_weights(sharded / variant, weights(whole_tree(sharded, variant)), layout)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bundle_of_what_four_ranks_saved_holds_the_whole_tensors(sharded: Path, variant: str, tmp_path: Path) -> None:
    spec = parse({"stages": [{"local": {"path": str(sharded / variant)}}, {"verify": {"finite": True}}]})
    outcome = prepare(spec, Store(tmp_path), "me")
    found = load_file(outcome.folder / "model.safetensors")
    expected = tensors_of(VARIANTS[variant][1](whole_tree(sharded, variant)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_everything_else_is_state_in_the_tree_that_was_saved(sharded: Path) -> None:
    index, content = read(sharded / "fsdp")
    tree = whole_tree(sharded, "fsdp")
    extra = {"0._extra_state": {"steps": 4}}
    assert_state(index.state, {**tree, "model": extra}, content)
    index, content = read(sharded / "flat")
    tree = whole_tree(sharded, "flat")
    assert_state(index.state, {key: tree[key] for key in index.state}, content)
    assert index.state.keys() == {"optimizer", "train_state", "0._extra_state"}


def test_one_process_goes_on_with_what_four_ranks_have_trained(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse({"stages": [{"local": {"path": str(sharded / "fsdp")}}, {"warmStart": {}}]})
    monkeypatch.setenv("PREHEAT_BUNDLE", str(prepare(spec, Store(tmp_path), "me").folder))
    model = torch.nn.Sequential(distributed_saves.Counting(), torch.nn.Linear(5, 3), torch.nn.LayerNorm(3))
    optimizer = torch.optim.AdamW(model.parameters())
    preheat.apply(model, optimizer)
    tree = whole_tree(sharded, "fsdp")
    assert all(torch.equal(value, tree["model"][name]) for name, value in tensors_of(model.state_dict()).items())
    for number, (name, _) in enumerate(model.named_parameters()):
        restored, saved = optimizer.state_dict()["state"][number], tree["optim"]["state"][name]
        assert all(torch.equal(restored[key], saved[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_one_process_saves_the_same(tmp_path: Path) -> None:
    weights = {
        "w": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "turned": torch.randn(4, 6).T,
        "n": torch.ones(()),
    }
    tree = {"model": weights, "epoch": 3, "names": ["a"], "function": print}
    folder = save(tmp_path / "one", tree)
    assert_weights(folder, weights, "model")
    index = index_of(folder)
    assert index.opaque == (str(index.state.pop("function")),) == ("builtins.print",)
    assert index.state == {"epoch": 3, "names": ["a"]}


def test_each_item_carries_the_checksum_of_its_bytes(tmp_path: Path) -> None:
    folder = save(tmp_path / "one", {"model": {"w": torch.randn(300, 40)}})
    [shard] = folder.glob("*.distcp")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    spec = parse({"stages": [{"local": {"path": str(folder)}}]})
    with pytest.raises(CheckpointValidationError, match="tensor 'w' is corrupt"):
        prepare(spec, Store(tmp_path / "volume"), "me")


def test_what_lightning_keeps_beside_the_shards_is_state(tmp_path: Path) -> None:
    folder = save(tmp_path / "epoch=1.ckpt", {"model": {"w": torch.ones(2)}, "optimizer_0": {"lr": 0.5}})
    (folder / "meta.pt").write_bytes(saved({"pytorch-lightning_version": "2.6.6", "epoch": 1, "seen": torch.ones(2)}))
    index, content = read(folder)
    assert index.layout == "lightning"
    meta = {"pytorch-lightning_version": "2.6.6", "epoch": 1, "seen": torch.ones(2)}
    assert_state(index.state, {**meta, "optimizer_states": [{"lr": 0.5}]}, content)


def test_long_objects_and_strange_ones_stay_opaque(tmp_path: Path) -> None:
    folder = save(tmp_path / "one", {"model": {"w": torch.ones(2)}, "long": "x" * (5 << 20)})
    assert index_of(folder).state["long"].name.endswith("BytesStorageMetadata")


def test_weights_that_are_no_dense_tensors_are_refused_by_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "one", {"model": {"odd": torch.ones(2, dtype=torch.complex128)}})
    with pytest.raises(UnsupportedFormatError, match=r"'odd' is of dtype torch\.complex128"):
        index_of(folder)


def test_a_folder_without_weights_lists_its_keys(tmp_path: Path) -> None:
    folder = save(tmp_path / "one", {"net": {"w": torch.ones(2)}, "epoch": 3})
    with pytest.raises(CheckpointLoadError, match=r"top-level keys: ('epoch', 'net'|'net', 'epoch')"):
        index_of(folder)


class MemoryFolder:
    """A folder behind requests, each of which is counted."""

    uri = "memory/"

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.files = {name: BytesBlob(content) for name, content in contents.items()}

    def names(self) -> None:
        return None

    def open(self, name: str) -> Blob:
        if name not in self.files:
            raise CheckpointNotFoundError(name)
        return self.files[name]


def contents_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def requests_of(folder: Path) -> tuple[int, int]:
    """Requests for the items, and their bytes."""
    remote = MemoryFolder(contents_of(folder))
    index = read_index(open_in(remote, ".metadata"))
    assert index.tensors
    reads = [read for name, blob in remote.files.items() if name.endswith(".distcp") for read in blob.reads]
    return len(reads), sum(stop - start for start, stop in reads)


def test_a_folder_behind_a_url_is_one_checkpoint(sharded: Path, tmp_path: Path) -> None:
    with FaultServer().running() as server:
        for file in (sharded / "boxes").iterdir():
            server.serve(f"/run/{file.name}", file.read_bytes())
        spec = parse({"stages": [{"http": {"url": f"{server.origin}/run/"}}]})
        found = load_file(prepare(spec, Store(tmp_path), "me").folder / "model.safetensors")
    expected = whole_tree(sharded, "boxes")["state_dict"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_neighbours_come_in_one_request(tmp_path: Path) -> None:
    large = save(tmp_path / "large", {"model": {f"w{i}": torch.randn(200, 200) for i in range(20)}})
    requests, size = requests_of(large)
    assert requests == 21  # one at either end, one between each two
    assert size < 21 * 4096
    small = save(tmp_path / "small", {"model": {f"w{i}": torch.randn(20) for i in range(100)}})
    assert requests_of(small)[0] == 2  # 164 KB


def rewrite(folder: Path, change: Callable[[Metadata], None]) -> None:
    file = folder / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    change(metadata)
    file.write_bytes(pickle.dumps(metadata))


def place(**changes: Any) -> Callable[[Metadata], None]:
    """Change where the first part of `w` is."""

    def change(metadata: Metadata) -> None:
        key = next(key for key in metadata.storage_data if key.fqn == "model.w")
        metadata.storage_data[key] = replace(metadata.storage_data[key], **changes)

    return change


def declare(**changes: Any) -> Callable[[Metadata], None]:
    """Change what is said of `w`."""

    def change(metadata: Metadata) -> None:
        metadata.state_dict_metadata["model.w"] = replace(metadata.state_dict_metadata["model.w"], **changes)

    return change


def forget(metadata: Metadata) -> None:
    del metadata.storage_data[next(key for key in metadata.storage_data if key.fqn == "model.w")]


def share(metadata: Metadata) -> None:
    one, other = [key for key in metadata.storage_data if key.fqn in ("model.w", "model.v")]
    metadata.storage_data[one] = metadata.storage_data[other]


def undeclare(metadata: Metadata) -> None:
    del metadata.state_dict_metadata["model.w"]


def misname(metadata: Metadata) -> None:
    metadata.planner_data["epoch"] = ("model",)
    metadata.state_dict_metadata["model"] = metadata.state_dict_metadata.pop("epoch")
    metadata.storage_data = {
        MetadataIndex("model") if key.fqn == "epoch" else key: value for key, value in metadata.storage_data.items()
    }


BOX, HALF = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([3, 4])), torch.Size([3, 2])
HOSTILE: dict[str, tuple[Callable[[Metadata], None], type[CheckpointError], str]] = {
    "behind the file": (place(offset=1 << 40), TruncatedError, "are missing"),
    "longer than the file": (place(length=1 << 40), CheckpointError, "share bytes|are missing"),
    "before the file": (place(offset=-1), CheckpointLoadError, "no number of bytes"),
    "not a number": (place(length="1"), CheckpointLoadError, "no number of bytes"),
    "in a missing file": (place(relative_path="gone.distcp"), CheckpointNotFoundError, "gone"),
    "outside of the folder": (place(relative_path="../x.distcp"), CheckpointLoadError, "not in its folder"),
    "anywhere": (place(relative_path="/etc/passwd"), CheckpointLoadError, "not in its folder"),
    "compressed": (place(transform_descriptors=["zstd"]), UnsupportedFormatError, "transformed .*zstd"),
    "elsewhere in its file": (place(offset=3), CheckpointError, "share bytes"),
    "another dtype": (declare(properties=dcp.metadata.TensorProperties(torch.int64)), CheckpointValidationError, "I64"),
    "larger": (declare(size=torch.Size([3, 5])), CheckpointValidationError, "do not make up"),
    "much larger": (declare(size=torch.Size([1 << 61, 1 << 61])), CheckpointValidationError, "do not make up"),
    "smaller": (declare(size=torch.Size([3, 3])), CheckpointValidationError, "does not belong"),
    "other boxes": (declare(chunks=[replace(BOX, sizes=HALF)]), CheckpointValidationError, "there is F32"),
    "a box of nothing else": (
        declare(chunks=[BOX, replace(BOX, offsets=HALF)]),
        CheckpointValidationError,
        "in no file",
    ),
    "boxes of another rank": (declare(size=torch.Size([12])), CheckpointValidationError, "does not belong"),
    "chunks that are none": (declare(chunks=7), CheckpointLoadError, "no chunks"),
    "no place": (forget, CheckpointValidationError, "the part at .* of 'model.w' is described and is in no file"),
    "one place for two": (share, CheckpointValidationError, "share bytes"),
    "no description": (undeclare, CheckpointValidationError, "no description"),
    "a value where a tree is": (misname, CheckpointValidationError, "another value"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tree = {"model": {"w": torch.randn(3, 4), "v": torch.randn(2)}, "epoch": 3, "list": [{"a": 1}]}
    return save(tmp_path / "saved", tree)


@pytest.mark.parametrize("case", HOSTILE)
def test_metadata_that_the_files_do_not_bear_out_is_refused(folder: Path, case: str) -> None:
    change, error, words = HOSTILE[case]
    rewrite(folder, change)
    with pytest.raises(error, match=words):
        index_of(folder)


@pytest.mark.parametrize(
    "value",
    [
        7,
        [],
        {},
        {"state_dict_metadata": {}},
        Metadata({}, None, None),
        Metadata([], None, {}),
        Call(os.system, ("true",)),
    ],
    ids=repr,
)
def test_metadata_that_is_none_is_refused(folder: Path, value: Any) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(value))
    with pytest.raises(CheckpointLoadError):
        index_of(folder)


def test_items_that_are_no_files_of_torch_are_refused(folder: Path) -> None:
    [shard] = folder.glob("*.distcp")
    shard.write_bytes(b"\0" * shard.stat().st_size)
    with pytest.raises(UnsupportedFormatError, match=r"'model\.w': the item is no file of torch"):
        index_of(folder)


def test_damage_ends_in_an_error_of_preheat_or_does_no_harm(folder: Path) -> None:
    contents = contents_of(folder)
    chance = random.Random(5)
    for _ in range(400):
        name = chance.choice(list(contents))
        damaged = bytearray(contents[name])
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with contextlib.suppress(CheckpointError):
            read_index(open_in(MemoryFolder({**contents, name: bytes(damaged)}), ".metadata"))


def test_an_object_that_repeats_itself_stays_as_small_as_it_is(tmp_path: Path) -> None:
    tree: Any = [0]
    for _ in range(17):
        tree = [tree, tree]
    nested: Any = {"x": 0}
    for _ in range(17):
        nested = {"a": (nested,), "b": (nested,)}
    folder = save(tmp_path / "one", {"model": {"w": torch.ones(2)}, "list": (tree,), "dictionary": (nested,)})
    state = index_of(folder).state
    assert state["list"][0][0] is state["list"][0][1]
    assert state["dictionary"][0]["a"] is not None
