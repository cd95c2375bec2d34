"""Files of torch.save before 1.6: five pickles, then each storage as a count of elements and its bytes.

Where a storage lies follows from the sizes that the object's pickle declares and from the order of the keys after it.
That pickle is therefore read twice: for the sizes, and to say where each tensor is. The file has no checksums; sizes,
counts and its length must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from preheat.errors import CheckpointLoadError, CheckpointValidationError, TruncatedError, UnsupportedFormatError
from preheat.formats.front import Front
from preheat.formats.inert.machine import Constructors, Pickle
from preheat.formats.inert.reader import MAX_BYTES, MAX_OPCODES, read_pickle
from preheat.formats.inert.values import Global
from preheat.formats.metadata import SMALL, MetadataReader
from preheat.formats.pytorch.checkpoint import make_index, refuse_reference
from preheat.formats.pytorch.tensors import CONSTRUCTORS, Storage, storage, storage_size
from preheat.index import Index, Record

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
COUNT = 8  # bytes of the number before each storage
MAX_COUNTS = 16  # numbers read of a large file: each is a request of its own

_RESAVE = "Save the checkpoint again with torch 1.6 or later"


def recognise(head: bytes) -> bool:
    """Whether a file begins with the magic number, as pickles of protocol 1 to 5 write it."""
    return MAGIC.to_bytes(10, "little") in head[:32] or head.startswith(f"L{MAGIC}L\n.".encode())


def read_index(reader: MetadataReader) -> Index:
    """The index of a file of torch before 1.6; raises a CheckpointLoadError or CheckpointValidationError otherwise."""
    front = Front(reader, MAX_BYTES)
    start = _after_header(front)
    sizes = _Storages({})
    keys = _pickle(front, _pickle(front, start, CONSTRUCTORS, sizes).stop)
    records = _place(_checked_keys(keys.value, sizes.records), sizes.records, keys.stop)
    _check_counts(reader, records, sizes.elements)
    _check_length(reader.size, records, keys.stop)
    return make_index("torch-legacy", _pickle(front, start, CONSTRUCTORS, _Storages(records)), reader)


def _pickle(
    front: Front,
    start: int,
    constructors: Constructors | None = None,
    persistent: Callable[[Any], Any] = refuse_reference,
) -> Pickle:
    budget = MAX_OPCODES + min(front.size, MAX_BYTES) // COUNT
    return read_pickle(front.data, constructors or {}, persistent, max_opcodes=budget, start=start, more=front.grow)


def _after_header(front: Front) -> int:
    """Where the object begins: after magic number, version, and facts about the machine that wrote the file."""
    magic = _pickle(front, 0)
    version = _pickle(front, magic.stop)
    if magic.value != MAGIC or version.value != PROTOCOL:
        raise UnsupportedFormatError("the file begins like one of torch before 1.6 and is of no known version of it")
    machine = _pickle(front, version.stop)
    if not isinstance(machine.value, dict):
        raise CheckpointLoadError("the file does not say what machine wrote it")
    if machine.value.get("little_endian") is not True:
        raise UnsupportedFormatError(
            "the checkpoint was written with byte order 'big'", remedy="Save it again on a little-endian machine"
        )
    return machine.stop


class _Storages:
    """What persistent ids mean, by the records of storages; those that are not known yet are noted with their sizes.

    A storage may be a view of another, named in a tuple (key, offset, elements); it is a record of its own then.
    """

    def __init__(self, records: Mapping[str, Record]) -> None:
        self.records = dict(records)
        self.elements: dict[str, int] = {}
        self._views: dict[str, Record] = {}

    def __call__(self, identity: Any) -> Any:
        match identity:
            case ("module", Global() as kind, _, _):  # with the source of the class, which nobody reads
                return kind
            case ("storage", kind, str() as key, _, elements, view):
                size = storage_size(kind, elements, key)
                if size is None:
                    raise UnsupportedFormatError(f"storage {key!r:.80} is a {kind}, of unknown size", remedy=_RESAVE)
                self.elements.setdefault(key, elements)
                root = storage(kind, elements, self.records.setdefault(key, Record(key, 0, size)))
                if key in self._views:
                    raise CheckpointValidationError(f"storage {key!r:.80} is a view of another and is not")
                return root if view is None else self._view(root, size // elements if elements else 1, view)
            case str():
                raise UnsupportedFormatError(
                    "the file was pickled with protocol 0, which spoils what it says about tensors", remedy=_RESAVE
                )
        refuse_reference(identity)

    def _view(self, root: Storage, itemsize: int, view: Any) -> Storage:
        match view:
            case (str() as key, int() as offset, int() as elements):
                start, size = root.record.start + offset * itemsize, elements * itemsize
                record = Record(key, start, start + size)
                if min(offset, elements) < 0 or record.stop > root.record.stop:
                    raise CheckpointValidationError(
                        f"storage {key!r:.80} reaches outside storage {root.record.name!r:.80}, which it is a view of"
                    )
                if key in self.records or self._views.setdefault(key, record) != record:
                    raise CheckpointValidationError(f"storage {key!r:.80} is described twice, differently")
                return Storage(record, root.dtype)
        raise CheckpointLoadError(f"storage {root.record.name!r:.80} has a view that is no key, offset and length")


def _checked_keys(keys: Any, records: Mapping[str, Record]) -> list[str]:
    """The keys in the order of the file; each storage of the object is there once, and no other."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointLoadError("the list of storages in the file is not a list of keys")
    found = set(keys)
    missing = next((key for key in records if key not in found), None)
    if missing is not None:
        raise CheckpointValidationError(f"the pickle refers to storage {missing!r:.80}, which is not in the file")
    if len(keys) != len(records):
        extra = min(found - records.keys(), default="")
        fault = f"storage {extra!r:.80} belongs to no tensor" if extra else "a storage is in the file twice"
        raise CheckpointValidationError(fault)
    return keys


def _place(keys: Iterable[str], sizes: Mapping[str, Record], at: int) -> dict[str, Record]:
    """Where the bytes of each storage are, in the order of the file."""
    placed = {}
    for key in keys:
        placed[key] = Record(key, at + COUNT, at + COUNT + sizes[key].size)
        at = placed[key].stop
    return placed


def _check_counts(reader: MetadataReader, records: Mapping[str, Record], elements: Mapping[str, int]) -> None:
    """Compare the numbers in the file with the pickle: all of a small file, else some that are spread over it."""
    inside = [record for record in records.values() if record.start <= reader.size]
    step = 1 if reader.size <= SMALL else -(-len(inside) // MAX_COUNTS)
    for record in inside[:: step or 1]:
        count = int.from_bytes(reader.read(record.start - COUNT, record.start), "little", signed=True)
        if count != elements[record.name]:
            raise CheckpointValidationError(
                f"storage {record.name!r:.80} declares {elements[record.name]} elements; at byte "
                f"{record.start - COUNT} the file says {count}",
                remedy="Copy the file again",
            )


def _check_length(size: int, records: Mapping[str, Record], after_keys: int) -> None:
    stop = max((record.stop for record in records.values()), default=after_keys)
    if size < stop:
        first = next(record for record in records.values() if record.stop > size)
        raise TruncatedError(
            f"the file ends at byte {size}, in storage {first.name!r:.80}; bytes {size}...{stop} are missing",
            remedy="Copy the file again",
        )
    if size > stop:
        raise UnsupportedFormatError(
            f"{size - stop} bytes follow the last storage of the file, from byte {stop}", remedy=_RESAVE
        )
