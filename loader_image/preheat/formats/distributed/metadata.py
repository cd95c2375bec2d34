"""What `.metadata` of torch.distributed.checkpoint says: which tensors there are, and where each box of them is saved.

A pickle of torch's own objects, of which only the fields are looked at: whoever saves with classes of their own, as
Megatron does, keeps the fields. What has other fields is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from preheat.blob import Blob
from preheat.errors import CheckpointLoadError, CheckpointValidationError, UnsupportedFormatError
from preheat.formats.inert.reader import MAX_OPCODES, read_pickle
from preheat.formats.inert.values import Global, Node
from preheat.formats.pytorch.checkpoint import refuse_reference
from preheat.formats.pytorch.tensors import CONSTRUCTORS, DTYPES, MAX_RANK

MAX_BYTES = 64 << 20  # some 250,000 items
MAX_STEPS = 32  # from the root of the saved tree

Path = tuple[str | int, ...]

_RESAVE = "Save the checkpoint again with torch.distributed.checkpoint.save"


@dataclass(frozen=True, slots=True)
class Item:
    """A file of torch.save inside of a bigger one: a box of a tensor, or without a corner any other object."""

    name: str
    corner: tuple[int, ...] | None
    file: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Declared:
    """A tensor; `boxes` are the lengths of its parts by their corners, empty ones left out."""

    dtype: str  # of safetensors, or torch's name for one that Preheat cannot write
    shape: tuple[int, ...]
    boxes: Mapping[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Description:
    """`items` are in the order of their files and bytes; `paths` say where in the saved tree each of them was."""

    tensors: Mapping[str, Declared]
    objects: frozenset[str]
    items: Sequence[Item]
    paths: Mapping[str, Path]

    @property
    def files(self) -> list[str]:
        """Their names, each once."""
        return list(dict.fromkeys(item.file for item in self.items))


def describe(entry: Blob) -> Description:
    """What the file says; raises CheckpointLoadError or CheckpointValidationError where it makes no sense."""
    if entry.size > MAX_BYTES:
        raise CheckpointLoadError(f"{entry.uri} has {entry.size} bytes; {MAX_BYTES} are allowed for metadata")
    content = entry.read(0, entry.size)
    pickle = read_pickle(content, CONSTRUCTORS, refuse_reference, max_opcodes=MAX_OPCODES + len(content) // 2)
    fields = _fields(pickle.value, "state_dict_metadata", "storage_data")
    declared, storage, paths = (fields.get(key) for key in ("state_dict_metadata", "storage_data", "planner_data"))
    if not isinstance(declared, dict) or not isinstance(storage, dict):
        raise _senseless("it has no dictionaries of tensors and of their places")
    tensors = {_text(name): _declared(name, value) for name, value in declared.items() if _is_tensor(value)}
    items = [_item(key, place, tensors) for key, place in storage.items()]
    if not items:
        raise CheckpointLoadError("the metadata names no items", remedy=_RESAVE)
    objects = frozenset(map(_text, declared.keys() - tensors.keys()))
    _check_complete(items, tensors, objects)
    _check_apart(items)
    return Description(
        tensors=tensors,
        objects=objects,
        items=sorted(items, key=lambda item: (item.file, item.start)),
        paths=dict(_paths(paths)) if isinstance(paths, dict) else {},
    )


def _senseless(why: str) -> CheckpointLoadError:
    return CheckpointLoadError(f"the metadata makes no sense: {why}", remedy=_RESAVE)


def _fields(value: Any, *needed: str) -> dict[Any, Any]:
    fields = value.state if isinstance(value, Node) else None
    if not isinstance(fields, dict) or not fields.keys() >= set(needed):
        kind = value.name if isinstance(value, Node) else type(value).__name__
        raise _senseless(f"a {kind:.80} has not the fields {', '.join(needed)}")
    return fields


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Node) and isinstance(value.state, dict) and "chunks" in value.state


def _declared(name: str, value: Node) -> Declared:
    fields = _fields(value, "properties", "size", "chunks")
    properties = fields["properties"].state if isinstance(fields["properties"], Node) else None
    dtype = properties[0] if isinstance(properties, tuple) and properties else None
    if not isinstance(dtype, Global) or not isinstance(fields["chunks"], list):
        raise _senseless(f"tensor {name[:80]!r} has no dtype or no chunks")
    shape = _numbers(fields["size"])
    chunks = (_fields(chunk, "offsets", "sizes") for chunk in fields["chunks"])
    boxes = {_numbers(chunk["offsets"]): _numbers(chunk["sizes"]) for chunk in chunks}
    return Declared(
        dtype=DTYPES.get(dtype.name, str(dtype)),
        shape=shape,
        boxes={corner: lengths for corner, lengths in boxes.items() if prod(lengths)},
    )


def _item(key: Any, place: Any, tensors: Mapping[str, Declared]) -> Item:
    index = _fields(key, "fqn")
    name = _text(index["fqn"])
    fields = _fields(place, "relative_path", "offset", "length")
    if transforms := fields.get("transform_descriptors"):
        given = transforms if isinstance(transforms, (list, tuple)) else ()
        names = ", ".join(name for name in given if isinstance(name, str)) or "unknown"
        raise UnsupportedFormatError(
            f"{name[:80]!r} was transformed when it was saved ({names:.80})", remedy="Save it without extensions"
        )
    start, length = _numbers((fields["offset"], fields["length"]))
    corner = None
    if name in tensors:
        offset = index.get("offset")
        corner = (0,) * len(tensors[name].shape) if offset is None else _numbers(offset)
    return Item(name, corner, _text(fields["relative_path"]), start, start + length)


def _check_complete(items: Sequence[Item], tensors: Mapping[str, Declared], objects: frozenset[str]) -> None:
    """What is described has a place, and what has a place is described."""
    places = {(item.name, item.corner) for item in items}
    boxes = {(name, corner) for name, tensor in tensors.items() for corner in tensor.boxes}
    for name, corner in boxes.union((name, None) for name in objects) - places:
        part = "" if corner is None else f"the part at {corner} of "
        raise CheckpointValidationError(f"{part}{name[:80]!r} is described and is in no file", remedy=_RESAVE)
    for item in items:
        if item.name not in tensors and item.name not in objects:
            raise CheckpointValidationError(
                f"{item.name[:80]!r} has a place in {item.file!r:.80} and no description", remedy=_RESAVE
            )


def _check_apart(items: Sequence[Item]) -> None:
    """No two share bytes: what a few bytes describe stays in proportion to the files."""
    for one, other in pairwise(sorted(items, key=lambda item: (item.file, item.start))):
        if one.file == other.file and other.start < one.stop:
            raise CheckpointValidationError(
                f"{one.name[:80]!r} and {other.name[:80]!r} share bytes {other.start}...{one.stop} of {one.file!r:.80}",
                remedy=_RESAVE,
            )


def _paths(paths: Mapping[Any, Any]) -> Iterator[tuple[str, Path]]:
    """Where each item was in the tree; programs with planners of their own keep other things here."""
    for name, path in paths.items():
        steps = path if isinstance(path, tuple) and len(path) <= MAX_STEPS else ()
        if all(type(step) in (str, int) for step in steps) and ".".join(map(str, steps)) == name:
            yield name, steps


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _senseless(f"a {type(value).__name__} stands for a name")
    return value


def _numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_RANK:
        raise _senseless(f"a {type(value).__name__} stands for numbers")
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in value):
        raise _senseless("a size or a place is no number of bytes or elements")
    return value
