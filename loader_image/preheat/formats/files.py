"""What a file is, told by its first bytes, and its index. Tables list what is read and what is known and refused."""

from __future__ import annotations

from collections.abc import Callable

from preheat.blob import Blob
from preheat.errors import CheckpointLoadError, UnsupportedFormatError
from preheat.formats import safetensors
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch import legacy, zip_file
from preheat.index import Index

_RESAVE = "Save the model's state_dict() with torch.save of torch 1.6 or later"
_WEB = "Check the URL: a login page or an error page was stored instead of the checkpoint"
_UNPACK = "Unpack it and give the checkpoint inside"


def _starts(*prefixes: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(prefixes)


def _web_page(head: bytes) -> bool:
    return head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<error"))


READERS: tuple[tuple[str, Callable[[bytes], bool], Callable[[MetadataReader], Index]], ...] = (
    ("torch zip", _starts(b"PK\3\4"), zip_file.read_index),
    ("safetensors", lambda head: head[8:9] == b"{", safetensors.read_index),
    ("torch before 1.6", legacy.recognise, legacy.read_index),
)

KNOWN: tuple[tuple[str, Callable[[bytes], bool], str], ...] = (
    ("a tar archive, perhaps of torch before 0.1.10", lambda head: head[257:262] == b"ustar", _RESAVE),
    ("a bare pickle", lambda head: head[:1] == b"\x80" and head[1:2] <= b"\x05", _RESAVE),
    ("an empty zip archive", _starts(b"PK\5\6"), _RESAVE),
    ("a zip archive of several parts", _starts(b"PK\7\x08"), _UNPACK),
    ("a Git LFS pointer", _starts(b"version https://git-lfs"), "Fetch the real file with `git lfs pull`"),
    ("a web page", _web_page, _WEB),
    ("a JSON file, perhaps the index of a sharded checkpoint", lambda head: head.lstrip()[:1] in (b"{", b"["), _RESAVE),
    ("gzip data", _starts(b"\x1f\x8b"), _UNPACK),
    ("zstd data", _starts(b"\x28\xb5\x2f\xfd"), _UNPACK),
    ("xz data", _starts(b"\xfd7zXZ\0"), _UNPACK),
    ("bzip2 data", _starts(b"BZh"), _UNPACK),
    ("an HDF5 file", _starts(b"\x89HDF\r\n\x1a\n"), "Convert it to a torch state dict or to safetensors"),
    ("a GGUF file", _starts(b"GGUF"), "Give the checkpoint that it was made from"),
    ("a numpy array", _starts(b"\x93NUMPY"), "Save the tensors with torch.save or safetensors"),
)


def read_file(blob: Blob) -> Index:
    """The index of a checkpoint in one file; raises a CheckpointLoadError that says what the bytes are instead."""
    reader = MetadataReader(blob)
    head = reader.head
    if not head:
        raise CheckpointLoadError("the file is empty", remedy="Check how it was written")
    for _, matches, read in READERS:
        if matches(head):
            return read(reader)
    raise _unknown(head)


def _unknown(head: bytes) -> UnsupportedFormatError:
    names = ", ".join(name for name, _, _ in READERS)
    shown = f"its first bytes are {head[:16].hex(' ')} ({head[:16]!r}); Preheat reads: {names}"
    for name, matches, remedy in KNOWN:
        if matches(head):
            return UnsupportedFormatError(f"this looks like {name}: {shown}", remedy=remedy)
    return UnsupportedFormatError(f"no known checkpoint format: {shown}", remedy=_RESAVE)
