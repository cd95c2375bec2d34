"""A target that takes one file of a checkpoint of several; the rest are real ones, made by their own libraries.

The first byte of an input chooses the folder.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import safetensors.torch
import torch
from claims import accepted
from containers import Mutate, check_plan, mutate_zip
from documents import mutate_json
from formats.samples import BytesBlob
from formats.zero_saves import save as save_deepspeed
from pickles import check_json
from torch.distributed import checkpoint

from preheat.blob import Blob
from preheat.errors import CheckpointNotFoundError
from preheat.formats import read_index
from preheat.formats.folders import open_in

TENSORS = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2), "step": torch.tensor(4)}


@dataclass(frozen=True)
class Shelf:
    """A folder in memory whose file `entry` is to be fuzzed."""

    files: dict[str, bytes]
    entry: str
    mutate: Callable[[bytes, int, Mutate, Random], bytes] | None = None
    uri: str = "memory/"

    def names(self) -> frozenset[str]:
        return frozenset(name for name in self.files if "/" not in name)

    def open(self, name: str) -> Blob:
        if name not in self.files:
            raise CheckpointNotFoundError(f"no {name!r:.80}")
        return BytesBlob(self.files[name], uri=self.uri + name, remote=False)


def folder(data: bytes) -> None:
    """What several files are together, with one of them changed."""
    shelf = _shelf(data)
    changed = Shelf({**shelf.files, shelf.entry: data[1:]}, shelf.entry)
    index = accepted(lambda: read_index(open_in(changed)))
    if index is not None:
        check_plan(index)
        check_json(index.state)


def mutate_folder(data: bytes, max_size: int, mutate: Mutate, choice: Random) -> bytes:
    """Change the file in the way of its kind."""
    change = _shelf(data).mutate
    return data[:1] + (change(data[1:], max_size - 1, mutate, choice) if change else mutate(data[1:], max_size - 1))


def folders() -> Iterator[bytes]:
    """The unchanged file of each folder."""
    for number, shelf in enumerate(_shelves()):
        yield bytes([number]) + shelf.files[shelf.entry]


def _shelf(data: bytes) -> Shelf:
    shelves = _shelves()
    return shelves[data[0] % len(shelves) if data else 0]


@cache
def _shelves() -> list[Shelf]:
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [make(Path(scratch, make.__name__)) for make in (_sharded, _distributed, _adapter, _zero, _zero_by_rank)]


def _sharded(folder: Path) -> Shelf:
    folder.mkdir()
    weight_map = {}
    for number, (name, tensor) in enumerate(TENSORS.items()):
        safetensors.torch.save_file({name: tensor}, folder / f"model-{number}.safetensors")
        weight_map[name] = f"model-{number}.safetensors"
    entry = "model.safetensors.index.json"
    (folder / entry).write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": weight_map}))
    return Shelf(_files(folder), entry, mutate_json)


def _distributed(folder: Path) -> Shelf:
    tree = {"model": TENSORS, "optimizer": {"state": {0: {"step": 1, "m": torch.ones(2)}}}, "epoch": 3, "note": "x"}
    checkpoint.save(tree, checkpoint_id=folder, no_dist=True)
    return Shelf(_files(folder), ".metadata")


def _adapter(folder: Path) -> Shelf:
    folder.mkdir()
    safetensors.torch.save_file(TENSORS, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "target_modules": ["q"]}))
    return Shelf(_files(folder), "adapter_config.json", mutate_json)


def _zero(folder: Path) -> Shelf:
    groups = [{"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}, {"b": torch.ones(5)}]
    save_deepspeed(folder, 2, groups, ranks=2, buffers={"seen": torch.arange(3)}, frozen={"c": torch.ones(4)})
    return Shelf(_files(folder), "global_step5/mp_rank_00_model_states.pt", mutate_zip)


def _zero_by_rank(folder: Path) -> Shelf:
    save_deepspeed(folder, 3, [{"a.weight": torch.ones(2, 3), "b": torch.ones(5)}], ranks=2)
    files = _files(folder)
    entry = next(name for name in sorted(files) if name.endswith("optim_states.pt"))
    return Shelf(files, entry, mutate_zip)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
