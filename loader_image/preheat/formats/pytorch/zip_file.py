"""Files of torch.save since 1.6: a zip of one pickle and one stored member per storage."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from preheat.errors import CheckpointLoadError, CheckpointValidationError, UnsupportedFormatError
from preheat.formats.inert.machine import Pickle
from preheat.formats.inert.reader import MAX_OPCODES, read_pickle
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch.checkpoint import make_index, refuse_reference
from preheat.formats.pytorch.tensors import CONSTRUCTORS, Storage, storage
from preheat.formats.pytorch.zip_directory import SUFFIX, check_stored, read_directory
from preheat.formats.pytorch.zip_entries import Member
from preheat.formats.pytorch.zip_members import ALIGNMENT, Storages, read_ahead, read_member
from preheat.index import Index, Record


def read_index(reader: MetadataReader) -> Index:
    """The index of a torch zip file; raises a CheckpointLoadError or CheckpointValidationError for anything else."""
    return make_index("torch-zip", read_tree(reader), reader)


def read_tree(reader: MetadataReader, *, suffix: int = SUFFIX) -> Pickle:
    """What a torch zip file holds, be it a checkpoint or not; its directory is sought in the last `suffix` bytes."""
    content, records = _members(reader, suffix)
    budget = MAX_OPCODES + 200 * len(records)
    pickle = read_pickle(content, CONSTRUCTORS, partial(_storage, records), max_opcodes=budget)
    if pickle.stop != len(content):
        raise CheckpointLoadError(f"{len(content) - pickle.stop} bytes follow the end of the pickle")
    return pickle


def _members(reader: MetadataReader, suffix: int) -> tuple[bytes, Storages]:
    """The pickle, and the storages by their keys; nothing else that was read is kept."""
    members = read_directory(reader, suffix)
    root = _root(members)
    check_stored(members.values())
    small = {name: members.get(f"{root}/{name}") for name in ("data.pkl", ".storage_alignment", "byteorder")}
    read_ahead(reader, [member for member in small.values() if member])
    _check_byteorder(reader, small["byteorder"])
    alignment = _alignment(reader, small[".storage_alignment"])
    records = Storages(reader, members, f"{root}/data/", alignment)
    content = read_member(reader, members[f"{root}/data.pkl"])
    reader.forget()
    return content, records


def _root(members: Mapping[str, Member]) -> str:
    """The folder in which torch puts everything, called like the file."""
    roots = [name.removesuffix("/data.pkl") for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    first = next(iter(members), "").partition("/")[0]
    if roots != [first]:
        shown = ", ".join(repr(name)[:80] for name in list(members)[:8]) or "none"
        raise UnsupportedFormatError(
            f"the file is a zip archive and no file of torch.save; its members: {shown}",
            remedy="Save the checkpoint with torch.save",
        )
    if f"{first}/constants.pkl" in members:
        raise UnsupportedFormatError(
            "the file is a TorchScript archive", remedy="Save the model's state_dict() with torch.save"
        )
    return first


def _check_byteorder(reader: MetadataReader, member: Member | None) -> None:
    order = read_member(reader, member) if member and member.size < 64 else b"little"
    if order != b"little":
        raise UnsupportedFormatError(
            f"the checkpoint was written with byte order {order.decode(errors='replace')!r}",
            remedy="Save it again on a little-endian machine",
        )


def _alignment(reader: MetadataReader, member: Member | None) -> int:
    text = read_member(reader, member) if member and member.size < 16 else b""
    return int(text) if text.isdigit() and int(text) > 0 else ALIGNMENT


def _storage(records: Mapping[str, Record], identity: Any) -> Storage:
    """What torch's pickles mean by a persistent id: ("storage", type, key, device, elements)."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        refuse_reference(identity)
    _, kind, key, _, elements = identity
    if not isinstance(key, str):
        raise CheckpointLoadError("the pickle refers to a storage whose key is no text")
    record = records.get(key)
    if record is None:
        raise CheckpointValidationError(f"the pickle refers to storage {key[:80]!r}, which is not in the file")
    return storage(kind, elements, record)
