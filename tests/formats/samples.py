"""Checkpoints for the tests of formats: made by torch itself, or by hand where torch would not make them."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from preheat.bundle.data import CheckpointData
from preheat.errors import TruncatedError
from preheat.file_blob import FileBlob
from preheat.formats import read_index
from preheat.formats.pytorch.tensors import DTYPES
from preheat.index import Index, Tensor

TORCH_DTYPES = {ours: getattr(torch, theirs) for theirs, ours in DTYPES.items()}


@dataclass
class BytesBlob:
    """A blob in memory that counts what is read of it."""

    content: bytes
    uri: str = "memory"
    version: str = "memory:1"
    remote: bool = True
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def fetched(self) -> int:
        return sum(stop - start for start, stop in self.reads)

    def read(self, start: int, stop: int) -> bytes:
        if stop > self.size:
            raise TruncatedError(f"bytes {start}...{stop} of {self.size}")
        self.reads.append((start, stop))
        return self.content[start:stop]

    def stream(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        for at in range(start, stop, len(buffer)):
            part = self.read(at, min(stop, at + len(buffer)))
            buffer[: len(part)] = part
            yield buffer[: len(part)]

    def close(self) -> None:
        pass


def saved(tree: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(tree, buffer, **options)
    return buffer.getvalue()


def saved_before_1_6(tree: Any, **options: Any) -> bytes:
    """What torch.save wrote before it wrote zip files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of modules it wants to keep the source
        return saved(tree, _use_new_zipfile_serialization=False, **options)


def read_by_preheat(content: bytes, folder: Path) -> dict[str, torch.Tensor]:
    """The weights as `preheat.bundle.data` gives them, from a file."""
    (folder / "checkpoint").write_bytes(content)
    with contextlib.closing(FileBlob(folder / "checkpoint")) as blob:
        return dict(CheckpointData(blob, read_index(blob)).state_dict)


def index_of(content: bytes) -> Index:
    return read_index(BytesBlob(content))


def value_of(content: bytes, tensor: Tensor) -> torch.Tensor:
    """The tensor that an index describes, built of the file's bytes."""
    dtype = TORCH_DTYPES[tensor.dtype]
    if tensor.parts:
        whole = torch.empty(tensor.space, dtype=dtype)
        for part in tensor.parts:
            box = tuple(slice(start, end) for start, end in zip(part.corner, part.end, strict=True))
            whole[box] = value_of(content, part.tensor)
        return whole.reshape(tensor.shape)
    raw = bytearray(content[tensor.start : tensor.start + tensor.extent()])
    if not raw:
        return torch.empty(tensor.shape, dtype=dtype)
    flat = torch.frombuffer(raw, dtype=torch.uint8).view(dtype)
    return flat.view(tensor.shape) if tensor.strides is None else flat.as_strided(tensor.shape, tensor.strides)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit-equal, whatever the dtype: NaN equals NaN."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return bytes_of(one).equal(bytes_of(other))


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).clone(memory_format=torch.contiguous_format).view(torch.uint8)


def assert_equals_torch(content: bytes, take: Callable[[Any], Mapping[str, torch.Tensor]] = lambda root: root) -> Index:
    """The index names exactly the tensors that torch.load gives, and their bytes are torch's."""
    return assert_equals(content, take(torch.load(io.BytesIO(content), weights_only=True)))


def assert_equals(content: bytes, expected: Mapping[str, torch.Tensor]) -> Index:
    """The index names exactly these tensors, and describes their bytes."""
    index = index_of(content)
    assert list(index.tensors) == list(expected)
    for name, tensor in index.tensors.items():
        assert same(value_of(content, tensor), expected[name]), name
    return index


@dataclass
class Member:
    """A zip member, honest by default; a test sets what it wants to be false."""

    name: str
    content: bytes = b""
    method: int = 0
    flags: int = 0x0808
    crc32: int | None = None
    size: int | None = None  # in the directory
    packed: int | None = None
    header: int | None = None  # where the directory says that it begins
    local_name: str | None = None
    local_extra: bytes = b""
    directory_extra: bytes = b""


def zip_of(members: list[Member], *, comment: bytes = b"", zip64: bool = True, count: int | None = None) -> bytes:
    """A zip file as torch lays it out: empty local headers, descriptors after the data, ZIP64 end records."""
    body, directory = bytearray(), bytearray()
    for member in members:
        start = len(body)
        name, crc = member.name.encode(), zlib.crc32(member.content) if member.crc32 is None else member.crc32
        local = (member.local_name or member.name).encode()
        size = len(member.content) if member.size is None else member.size
        packed = size if member.packed is None else member.packed
        body += struct.pack(
            "<4s5H3L2H", b"PK\3\4", 0, member.flags, member.method, 0, 0, 0, 0, 0, len(local), len(member.local_extra)
        )
        body += local + member.local_extra + member.content
        if member.flags & 8:
            body += struct.pack("<4s3L", b"PK\7\x08", crc, packed, size)
        header = start if member.header is None else member.header
        directory += struct.pack(
            "<4s6H3L5H2L",
            b"PK\1\2", 0, 0, member.flags, member.method, 0, 0, crc, packed, size,
            len(name), len(member.directory_extra), 0, 0, 0, 0, header,
        )  # fmt: skip
        directory += name + member.directory_extra
    return bytes(body + directory) + _end(
        len(body), len(directory), len(members) if count is None else count, zip64, comment
    )


def _end(start: int, size: int, count: int, zip64: bool, comment: bytes) -> bytes:
    end = b""
    if zip64:
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0, 0, 0, 0, count, count, size, start)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, start + size, 1)
    return end + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, start, len(comment)) + comment


def checkpoint_of(data_pkl: bytes, storages: Mapping[str, bytes] | None = None, **others: bytes) -> bytes:
    """A torch zip file with a pickle of the test's own."""
    members = [Member("archive/data.pkl", data_pkl)]
    members += [Member(f"archive/data/{key}", content) for key, content in (storages or {}).items()]
    return zip_of(members + [Member(f"archive/{name}", content) for name, content in others.items()])


class _Saver(pickle._Pickler):  # the Python version, which lets a test write opcodes
    def persistent_id(self, value: Any) -> Any:
        return ("storage", value.kind, value.key, "cpu", value.elements) if isinstance(value, StoredAs) else None


@dataclass(frozen=True)
class StoredAs:
    """A storage as a pickle refers to it."""

    kind: Any = torch.FloatStorage
    key: str = "0"
    elements: int = 4


@dataclass(frozen=True)
class Call:
    """Pickled as a call of `function` with `args`."""

    function: Any
    args: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def pickled(tree: Any, protocol: int = 2) -> bytes:
    """A pickle that may refer to storages and call what it likes."""
    buffer = io.BytesIO()
    _Saver(buffer, protocol).dump(tree)
    return buffer.getvalue()


def tensor_call(
    shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), offset: int = 0, storage: StoredAs | None = None
) -> Call:
    """A tensor over storage 0, with whatever geometry."""
    from torch._utils import _rebuild_tensor_v2

    return Call(_rebuild_tensor_v2, (storage or StoredAs(), offset, shape, strides, False, {}))


def repacked(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """The same archive as another program would write it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return buffer.getvalue()
