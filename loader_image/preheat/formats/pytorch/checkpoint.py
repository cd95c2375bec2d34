"""What the pickle of a torch file becomes: an index whose tensors lie inside their storages and repeat little."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NoReturn

from preheat.errors import CheckpointLoadError, CheckpointValidationError
from preheat.formats.inert.machine import Pickle
from preheat.formats.inert.values import FROZENSET, SET, Global, check_tree
from preheat.formats.layouts import take_apart
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch.tensors import FAMILIAR
from preheat.index import Index, distinct
from preheat.packed import PackedTensors

#: Views may repeat stored bytes; a file of a few bytes must not become a bundle of many gigabytes.
MAX_EXPANSION = 4
FREE_EXPANSION = 64 << 20


def make_index(file_format: str, pickle: Pickle, reader: MetadataReader) -> Index:
    """The index of a checkpoint whose pickle was read with the constructors of `torch_tensors`."""
    check_tree(pickle.value)
    opaque = uninterpreted(pickle.opaque)
    layout = take_apart(pickle.value)
    del pickle  # with its tree the tensors go one by one as they are packed
    tensors = PackedTensors((name, layout.tensors.pop(name)) for name in list(layout.tensors))
    index = Index(file_format, layout.name, tensors, layout.state, opaque, reader.fetched)
    check_tensors(index, reader.size)
    return index


def uninterpreted(opaque: Collection[Global]) -> tuple[str, ...]:
    """The names of classes and functions that mean nothing to Preheat."""
    return tuple(sorted(map(str, set(opaque) - FAMILIAR - {SET, FROZENSET})))


def refuse_reference(identity: Any) -> NoReturn:
    """Raise CheckpointLoadError for a persistent id that torch does not write; its values stay unprinted."""
    kind = f"a {type(identity).__name__}"
    if isinstance(identity, tuple) and identity and isinstance(identity[0], str):
        kind = f"{identity[0][:40]!r} of {len(identity)} parts"
    raise CheckpointLoadError(f"the pickle refers to something outside of itself that is no storage: {kind}")


def check_tensors(index: Index, stored: int) -> None:
    """Raise CheckpointValidationError unless all lie inside their storages and repeat little of the `stored` bytes."""
    for name, tensor in index.tensors.items():
        tensor.check_inside(name)
    for tensor in index.state_tensors():
        tensor.check_inside("among the training state")
    total = sum(index.tensors[name].size for name in distinct(index.tensors)[0])
    if total > MAX_EXPANSION * stored + FREE_EXPANSION:
        largest = max(index.tensors, key=lambda name: index.tensors[name].size)
        raise CheckpointValidationError(
            f"the tensors take {total} bytes, {largest!r} alone {index.tensors[largest].size}, "
            f"from a file of {stored}: views repeat the same bytes too often",
            remedy="Save contiguous copies of the tensors",
        )
