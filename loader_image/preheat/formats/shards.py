"""Checkpoints in shards: an index in JSON says in which file each tensor is, as Transformers and Diffusers write them.

The index and the files must agree on every name: what one of them does not know would be lost, or taken twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from preheat.blob import Blob, Folder
from preheat.errors import CheckpointLoadError, CheckpointValidationError
from preheat.formats.files import read_file
from preheat.formats.safetensors import METADATA, without_duplicates
from preheat.index import Index, Record, Tensor
from preheat.joined_blob import JoinedBlob, Member

MAX_INDEX = 100_000_000  # bytes
THREADS = 8

_RESAVE = "Copy all its files again, or save it with save_pretrained"


def members(folder: Folder, entry: Blob) -> Sequence[str]:
    """The files that the index names, in its order."""
    return list(dict.fromkeys(_weight_map(entry)[0].values()))


def read_index(blob: JoinedBlob) -> Index:
    """The index of all shards; raises CheckpointValidationError where they disagree with the JSON."""
    entry, *files = blob.members
    weight_map, metadata = _weight_map(entry.blob)
    with ThreadPoolExecutor(THREADS if blob.remote else 1, thread_name_prefix="preheat") as pool:
        found = dict(zip((file.name for file in files), pool.map(_read_shard, files), strict=True))
    _compare(weight_map, found)
    first = next(iter(found.values()))
    return Index(
        format=first.format,
        layout="sharded",
        tensors={name: found[file].tensors[name] for name, file in weight_map.items()},
        state={METADATA: metadata} if metadata else {},
        opaque=tuple(sorted({name for index in found.values() for name in index.opaque})),
        metadata_bytes=entry.blob.size + sum(index.metadata_bytes for index in found.values()),
    )


def moved(index: Index, member: Member) -> Index:
    """The index of one file as part of the whole: its records begin where the file does."""
    places: dict[Record, Record] = {}

    def place(tensor: Tensor) -> Tensor:
        record = tensor.record
        if record not in places:
            name = f"{member.name}: {record.name}"
            places[record] = Record(name, member.start + record.start, member.start + record.stop, record.crc32)
        return replace(tensor, record=places[record])

    return replace(index, tensors={name: place(tensor) for name, tensor in index.tensors.items()})


def _read_shard(member: Member) -> Index:
    try:
        return moved(read_file(member.blob), member)
    except (CheckpointLoadError, CheckpointValidationError) as error:
        raise type(error)(f"{member.name}: {error.args[0]}", remedy=error.remedy) from error


def _weight_map(entry: Blob) -> tuple[dict[str, str], dict[str, Any]]:
    """File by tensor, and what else the index says."""
    if entry.size > MAX_INDEX:
        raise CheckpointLoadError(f"{entry.uri} has {entry.size} bytes; {MAX_INDEX} are allowed for an index")
    try:
        document = json.loads(entry.read(0, entry.size).decode(), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointLoadError(f"{entry.uri} is not valid JSON: {error}", remedy=_RESAVE) from error
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointLoadError(f"{entry.uri} has no weight_map from tensors to files", remedy=_RESAVE)
    if not weight_map:
        raise CheckpointLoadError(f"{entry.uri} names no tensors", remedy=_RESAVE)
    metadata = document.get("metadata")
    return weight_map, metadata if isinstance(metadata, dict) else {}


def _compare(weight_map: dict[str, str], found: dict[str, Index]) -> None:
    absent = [name for name, file in weight_map.items() if name not in found[file].tensors]
    if absent:
        raise CheckpointValidationError(
            f"the index says that {_some(absent)} is in {weight_map[absent[0]]!r}, which has no such tensor",
            remedy=_RESAVE,
        )
    for file, index in found.items():
        foreign = [name for name in index.tensors if weight_map.get(name) != file]
        if foreign:
            raise CheckpointValidationError(
                f"{file!r} holds {_some(foreign)}, which the index does not place there", remedy=_RESAVE
            )


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return f"{shown[0]!r}" + (f" and {len(shown) - 1} more" if len(shown) > 1 else "")
