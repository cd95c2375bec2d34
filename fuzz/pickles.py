"""Targets that take a bare pickle: what the inert reader makes of it, and what layouts and JSON make of that."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
from typing import Any, NoReturn

from claims import accepted, claim
from containers import check_plan
from documents import training_document
from formats.samples import BytesBlob

from preheat.errors import CheckpointLoadError
from preheat.formats.inert.reader import read_pickle
from preheat.formats.inert.values import SET, Global, Key, Node, check_tree, members
from preheat.formats.json_state import to_json
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch.checkpoint import make_index, refuse_reference
from preheat.formats.pytorch.tensors import CONSTRUCTORS, storage, storage_size
from preheat.formats.training_state import spell_state
from preheat.index import Record

MAX_STORAGE = 1 << 20
MAX_COMPARED = 5000  # values
MAX_JSON = 4 << 20


def inert_pickle(data: bytes) -> None:
    """The inert reader, against the standard library: where a pickle ends, and what it holds where it names nothing."""
    found = accepted(lambda: read_pickle(data, {}, refuse_reference))
    if found is None:
        return
    if (stop := _stop_of(data)) is not None:
        claim(found.stop == stop, f"the pickle ends at {stop}, not at {found.stop}")
    if not found.opaque and accepted(lambda: check_tree(found.value) or True):  # it returns nothing
        _compare_with_pickle(found.value, data[: found.stop])


def _stop_of(data: bytes) -> int | None:
    """The byte after the pickle by the standard library's disassembler, which runs nothing; None where it refuses."""
    try:
        return next(at + 1 for opcode, _, at in pickletools.genops(data) if opcode.name == "STOP")
    except Exception:  # it is stricter about texts than any unpickler
        return None


class _NamesNothing(pickle._Unpickler):  # type: ignore[name-defined]  # the Python version allocates no more than it reads
    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError("a name")


def _compare_with_pickle(ours: Any, data: bytes) -> None:
    try:
        theirs = _NamesNothing(io.BytesIO(data)).load()
    except Exception:  # the standard library checks less and more than we do; only values are compared
        return
    pending = [(ours, theirs)]
    for _ in range(MAX_COMPARED):
        if not pending:
            return
        mine, other = pending.pop()
        pending += _inside(mine, other)


def _inside(mine: Any, other: Any) -> list[tuple[Any, Any]]:
    """The pairs of values inside two that must be equal; raises FindingError where they differ."""
    if isinstance(mine, Node):
        claim(isinstance(other, (set, frozenset)), f"{mine!r} and {other!r:.80}")
        if mine.callee is SET:
            claim(len(members(mine)) >= len(other), "a set of fewer values")
        return []
    if isinstance(mine, dict):
        claim(isinstance(other, dict), f"a dictionary and {other!r:.80}")
        comparable = len(mine) == len(other) and not any(isinstance(key, (Key, Node)) for key in mine)
        return [*zip(mine, other, strict=True), *zip(mine.values(), other.values(), strict=True)] if comparable else []
    if isinstance(mine, (list, tuple)):
        claim(type(mine) is type(other) and len(mine) == len(other), f"{mine!r:.80} and {other!r:.80}")
        return list(zip(mine, other, strict=True))
    expected = bytes(other) if isinstance(other, bytearray) else other
    claim(mine == expected or (mine != mine and expected != expected), f"{mine!r:.80} and {expected!r:.80}")
    return []


def layouts(data: bytes) -> None:
    """A pickle of torch's whose storages are all there: layouts, whole modules, geometry, and a plan of the result."""
    pickled = accepted(lambda: read_pickle(data, CONSTRUCTORS, _storage))
    if pickled is None:
        return
    index = accepted(lambda: make_index("torch-zip", pickled, MetadataReader(BytesBlob(bytes(MAX_STORAGE)))))
    if index is not None:
        check_plan(index)
        check_json(index.state)


def json_state(data: bytes) -> None:
    """The state of a checkpoint as JSON that any reader accepts, of bearable length."""
    pickled = accepted(lambda: read_pickle(data, CONSTRUCTORS, _storage))
    if pickled is not None and accepted(lambda: check_tree(pickled.value) or True):
        check_json(pickled.value)


def check_json(tree: Any) -> None:
    """What a tree is written as can be read again, and is of bearable length."""
    whole = accepted(lambda: spell_state(tree))
    if whole is not None:
        training_document(json.dumps(whole.document, allow_nan=False).encode(), whole.tensors)
    text = json.dumps(to_json(tree), allow_nan=False)
    claim(len(text) <= MAX_JSON, f"JSON of {len(text)} characters")
    text.encode()


def _storage(identity: Any) -> Any:
    match identity:
        case ("storage", Global() as kind, str() as key, _, elements):
            size = storage_size(kind, elements, key) or 0
            if size > MAX_STORAGE:
                raise CheckpointLoadError("a storage larger than the file would be")
            return storage(kind, elements, Record(key, 0, size))
    refuse_reference(identity)
