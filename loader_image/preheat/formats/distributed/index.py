"""torch.distributed.checkpoint folders, those of FSDP, Lightning, Accelerate and torchtitan among them.

Tensors come together of the boxes that each rank saved, however they were sharded. Objects are read inertly while they
are small, as programs save options and counters; longer ones stay opaque, unread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from preheat.blob import Blob, Folder
from preheat.errors import CheckpointValidationError, UnsupportedFormatError, about
from preheat.formats.companions import present
from preheat.formats.distributed.items import TAIL, readers
from preheat.formats.distributed.layout import take_apart
from preheat.formats.distributed.metadata import Declared, Description, Item, describe
from preheat.formats.inert.machine import Pickle
from preheat.formats.inert.values import Global, Node, check_tree
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch import zip_file
from preheat.formats.pytorch.checkpoint import check_tensors, uninterpreted
from preheat.formats.pytorch.files import moved, read_file
from preheat.index import ITEMSIZE, Index, Part, Tensor, joined
from preheat.joined_blob import JoinedBlob, Member

#: Lightning's and Fabric's file for what is in no shard.
META = "meta.pt"

MAX_OBJECT = 4 << 20  # bytes


def members(folder: Folder, entry: Blob) -> Sequence[str]:
    """The files in which ranks saved their items, and what Lightning keeps beside them."""
    return [*describe(entry).files, *present(folder, [META])]


def read_index(blob: JoinedBlob) -> Index:
    """The index of all items; raises a CheckpointLoadError or CheckpointValidationError where they do not fit."""
    before = blob.fetched
    entry, *others = blob.members
    files = {file.name: file for file in others}
    description = describe(entry.blob)
    loaded = _Loaded(description, files)
    for item, reader in readers(files, description.items, remote=blob.remote):
        with about(f"{item.file}: {item.name!r:.200}"):
            loaded.take(item, reader)
    meta = loaded.read_all(files[META]) if META in files else {}
    layout = take_apart(loaded.values(), description.paths, meta if isinstance(meta, dict) else {META: meta})
    check_tree(layout.state)
    opaque = uninterpreted(loaded.opaque)
    index = Index("torch-distributed", layout.name, layout.tensors, layout.state, opaque, blob.fetched - before)
    check_tensors(index, blob.size)
    return index


class _Loaded:
    """What the items hold, put together as they come."""

    def __init__(self, description: Description, files: Mapping[str, Member]) -> None:
        self.opaque: set[Global] = set()
        self._description = description
        self._files = files
        self._parts: dict[str, list[Part]] = defaultdict(list)
        self._others: dict[str, Any] = {}

    def take(self, item: Item, reader: MetadataReader) -> None:
        """Read one item."""
        start = self._files[item.file].start + item.start
        if item.corner is None:
            self._others[item.name] = self._object(item, reader, start)
            return
        declared = self._description.tensors[item.name]
        lengths = declared.boxes.get(item.corner)
        if lengths is None or declared.dtype not in ITEMSIZE:  # an empty shard, or one that is never read
            return
        tensor = moved(_zip(reader).value, start, item.file)
        if isinstance(tensor, Node) and tensor.refusal:
            self._others[item.name] = tensor
            return
        if not isinstance(tensor, Tensor) or (tensor.dtype, tensor.shape) != (declared.dtype, lengths):
            raise CheckpointValidationError(
                f"the metadata describes {declared.dtype} {lengths}, and there is {_kind(tensor)}",
                remedy="Copy the folder again, all of it from the same save",
            )
        self._parts[item.name].append(Part(item.corner, tensor))

    def read_all(self, file: Member) -> Any:
        """What a whole file of torch.save holds."""
        pickle = read_file(file)
        self.opaque |= pickle.opaque
        return pickle.value

    def values(self) -> dict[str, Any]:
        """Every declared tensor and object by its flat name."""
        tensors = {name: self._joined(name, declared) for name, declared in self._description.tensors.items()}
        return tensors | self._others

    def _joined(self, name: str, declared: Declared) -> Tensor | Node:
        if declared.dtype not in ITEMSIZE:
            refusal = f"of dtype {declared.dtype}, which Preheat cannot write"
            return Node(Global("torch", "Tensor"), refusal=refusal)
        return joined(name, declared.dtype, declared.shape, self._parts.pop(name, ()))

    def _object(self, item: Item, reader: MetadataReader, start: int) -> Any:
        if reader.size > MAX_OBJECT or reader.read(0, min(4, reader.size)) != b"PK\3\4":
            return Node(Global("torch.distributed.checkpoint.metadata", "BytesStorageMetadata"))
        pickle = _zip(reader)
        check_tree(pickle.value)
        self.opaque |= pickle.opaque
        return moved(pickle.value, start, item.file)


def _zip(reader: MetadataReader) -> Pickle:
    if reader.read(0, min(4, reader.size)) != b"PK\3\4":
        raise UnsupportedFormatError(
            "the item is no file of torch.save", remedy="Save it with torch's FileSystemWriter, without extensions"
        )
    return zip_file.read_tree(reader, suffix=TAIL)


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
