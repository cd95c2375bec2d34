"""safetensors files: a strict reader of their header, and the writer of the one header that every bundle begins with.

The format's own library accepts duplicate keys (the last one wins) and leaves room for a second reading; this reader
refuses whatever two parsers could read differently. It never touches the payload.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

from preheat.errors import CheckpointLoadError, CheckpointValidationError, TruncatedError, UnsupportedFormatError
from preheat.formats.json_entries import entries
from preheat.formats.layouts import checked_name
from preheat.formats.metadata import MetadataReader
from preheat.index import ITEMSIZE, Index, Record, Tensor
from preheat.packed import PackedTensors

MAX_HEADER = 100_000_000  # the limit of the format's own library
PAGE = 4096  # where a header of ours ends, so that the data can be mapped and read past the page cache
PIECE = 1 << 20  # bytes of a header that are held at once
METADATA = "__metadata__"

# The order in which the format's own library writes dtypes, widest first: no tensor needs padding to be aligned.
_ORDER: tuple[str, ...] = ("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16")
_ORDER += ("F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")
_RANK = {dtype: rank for rank, dtype in enumerate(_ORDER)}

#: Dtype and shape by name.
Declared = Mapping[str, tuple[str, tuple[int, ...]]]


def offsets(tensors: Declared) -> Iterator[tuple[str, int, int]]:
    """Where each tensor lies after the header (name, start, stop), in the order of the file: by dtype, then by name."""
    names = sorted(tensors)
    names.sort(key=lambda name: _RANK[tensors[name][0]])  # twice: pairs to sort by would take more room than the names
    at = 0
    for name in names:
        dtype, shape = tensors[name]
        stop = at + prod(shape) * ITEMSIZE[dtype]
        yield name, at, stop
        at = stop


class Header:
    """The bytes before the data, a multiple of 4096; the same input gives the same bytes.

    Those of 100,000 tensors are 10 MB with little in them that is new, so they are kept compressed.
    """

    def __init__(self, tensors: Declared, metadata: Mapping[str, str] | None = None) -> None:
        if METADATA in tensors:
            raise UnsupportedFormatError(f"a tensor is called {METADATA!r}, a name that safetensors keeps for itself")
        packing = zlib.compressobj(1)
        length, packed = 0, bytearray()
        for text in _texts(tensors, metadata):
            length += len(text)
            packed += packing.compress(text)
        padding = -(length + 8) % PAGE
        if length + padding > MAX_HEADER:
            raise UnsupportedFormatError(
                f"{len(tensors)} tensors need a header of {length + padding} bytes; {MAX_HEADER} are allowed"
            )
        self.size = 8 + length + padding
        self._packed = bytes(packed + packing.compress(b" " * padding) + packing.flush())

    def pieces(self) -> Iterator[bytes]:
        """The bytes, some at a time."""
        yield (self.size - 8).to_bytes(8, "little")
        unpacking, rest = zlib.decompressobj(), self._packed
        while not unpacking.eof:
            yield unpacking.decompress(rest, PIECE)
            rest = unpacking.unconsumed_tail

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Header) and self._packed == other._packed


def _texts(tensors: Declared, metadata: Mapping[str, str] | None) -> Iterator[bytes]:
    mark = b"{"
    for name, entry in _entries(tensors, metadata):  # one by one: all entries at once take ten times their text
        yield mark + _json(name) + b":" + _json(entry)
        mark = b","
    yield b"}" if mark == b"," else b"{}"


def _entries(tensors: Declared, metadata: Mapping[str, str] | None) -> Iterator[tuple[str, Any]]:
    if metadata:
        yield METADATA, dict(sorted(metadata.items()))
    for name, start, stop in offsets(tensors):
        dtype, shape = tensors[name]
        yield name, {"dtype": dtype, "shape": shape, "data_offsets": (start, stop)}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def read_index(reader: MetadataReader) -> Index:
    """The index of a safetensors file; raises a CheckpointLoadError for anything that is not exactly one."""
    length = int.from_bytes(reader.read(0, 8), "little")
    if length > MAX_HEADER:
        raise CheckpointLoadError(f"the safetensors header claims {length} bytes; {MAX_HEADER} are allowed")
    if 8 + length > reader.size:
        raise TruncatedError(
            f"the file ends at byte {reader.size}; its safetensors header should reach to byte {8 + length}",
            remedy="Copy the file again",
        )
    tensors, metadata = _parsed(reader, length)
    if not tensors:
        raise CheckpointLoadError("the safetensors file holds no tensors")
    _check_tiling(tensors, 8 + length, reader.size)
    return Index("safetensors", "safetensors", tensors, {METADATA: metadata} if metadata else {}, (), reader.fetched)


def _parsed(reader: MetadataReader, length: int) -> tuple[PackedTensors, dict[str, str]]:
    """The tensors of a header of so many bytes, and what else it says."""
    start = reader.read(8, 8 + min(length, 8))
    if not start.startswith(b"{"):
        raise CheckpointLoadError(f"the safetensors header begins with {start!r}, not with '{{'")
    tensors, metadata = PackedTensors(), None
    decoder = json.JSONDecoder(object_pairs_hook=_compact, parse_constant=_refuse_constant, parse_int=_natural)
    try:
        for name, entry in entries(_pieces(reader, 8, 8 + length), decoder):
            if name in tensors or (name == METADATA and metadata is not None):
                raise _twice(name)
            if name == METADATA:
                metadata = _metadata(entry)
            else:
                tensors.add(checked_name(name), _tensor(name, entry, 8 + length))
    except (ValueError, RecursionError) as error:
        raise CheckpointLoadError(f"the safetensors header is not valid JSON: {error}") from error
    return tensors, metadata or {}


def _pieces(reader: MetadataReader, start: int, stop: int) -> Iterator[bytes]:
    read = reader.read if stop - start <= PIECE else reader.fetch  # what is read is kept
    for begin in range(start, stop, PIECE):
        yield read(begin, min(begin + PIECE, stop))


class _Entry(NamedTuple):
    """What the header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


def _compact(pairs: list[tuple[str, Any]]) -> Any:
    """An entry as soon as it is read; a dictionary of lists takes three times as much, for each of all tensors."""
    found = without_duplicates(pairs)
    if found.keys() == set(_Entry._fields) and _counts(found["shape"]) and _counts(found["data_offsets"]):
        return _Entry(found["dtype"], tuple(found["shape"]), tuple(found["data_offsets"]))
    return found


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    raise _twice(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]


def _twice(name: str) -> CheckpointValidationError:
    return CheckpointValidationError(
        f"the safetensors header names {name!r} twice; readers disagree on which one counts"
    )


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _natural(text: str) -> int:
    if text.startswith("-"):  # -0 is one of them: the format's own library takes it for a fraction
        raise ValueError(f"{text:.20} is no count")
    return int(text)


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointLoadError(f"{METADATA} of the safetensors header must map strings to strings")
    try:
        "".join((*value, *value.values())).encode()
    except UnicodeEncodeError as error:
        raise CheckpointLoadError(f"{METADATA} of the safetensors header holds half a character") from error
    return value


def _tensor(name: str, entry: Any, data: int) -> Tensor:
    if not isinstance(entry, _Entry):
        raise CheckpointLoadError(
            f"tensor {name!r} of the safetensors header is not valid: "
            "it needs dtype, shape and data_offsets only, the last two lists of counts"
        )
    dtype, shape, span = entry
    if len(span) != 2 or span[0] > span[1]:
        raise CheckpointLoadError(f"tensor {name!r}: data_offsets {span!r} are not valid")
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise UnsupportedFormatError(f"tensor {name!r} has dtype {dtype!r}; known are {', '.join(ITEMSIZE)}")
    needed, given = prod(shape) * ITEMSIZE[dtype], span[1] - span[0]
    if needed != given:
        raise CheckpointValidationError(f"tensor {name!r} of {dtype} {shape} needs {needed} bytes and is given {given}")
    return Tensor(dtype, shape, Record(name, data + span[0], data + span[1]))


def _counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


_LAST = (1 << 64) - 1


def _check_tiling(tensors: Mapping[str, Tensor], data: int, size: int) -> None:
    at = data
    for both in sorted(tensor.record.start << 64 | tensor.record.stop for tensor in tensors.values()):
        start, stop = both >> 64, both & _LAST  # half as much room as pairs
        if start != at:
            name = next(name for name, tensor in tensors.items() if tensor.start == start)
            kind = "overlaps the tensor before it" if start < at else "leaves a hole before it"
            raise CheckpointValidationError(f"tensor {name!r} at byte {start} {kind}")
        at = stop
    if at > size:
        raise TruncatedError(
            f"the file ends at byte {size}; its tensors reach to byte {at}", remedy="Copy the file again"
        )
    if at < size:
        raise CheckpointValidationError(
            f"{size - at} bytes follow the last tensor, from byte {at}; no tensor owns them"
        )
