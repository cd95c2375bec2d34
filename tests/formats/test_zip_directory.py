"""Zip directories: read without a request per member, refused where two readers could disagree."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from formats.samples import (
    BytesBlob,
    Member,
    assert_equals_torch,
    checkpoint_of,
    index_of,
    pickled,
    repacked,
    saved,
    tensor_call,
    zip_of,
)

from preheat.errors import CheckpointLoadError, CheckpointValidationError, TruncatedError, UnsupportedFormatError
from preheat.file_blob import FileBlob
from preheat.formats import read_index
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch.zip_directory import SUFFIX, read_directory
from preheat.formats.pytorch.zip_members import Storages, read_member

DATA = bytes(16)
PICKLE = Member("a/data.pkl", pickled({"w": tensor_call()}))
STORAGE = Member("a/data/0", DATA)


def test_the_archive_of_the_tests_is_a_good_one() -> None:
    assert list(index_of(zip_of([PICKLE, STORAGE])).tensors) == ["w"]
    assert list(index_of(zip_of([PICKLE, STORAGE], zip64=False)).tensors) == ["w"]


def changed(**what: object) -> list[Member]:
    return [PICKLE, Member(**{"name": "a/data/0", "content": DATA, **what})]  # type: ignore[arg-type]


HOSTILE: dict[str, tuple[bytes, type[Exception], str]] = {
    "duplicate": (zip_of([PICKLE, STORAGE, STORAGE]), CheckpointValidationError, "two members called 'a/data/0'"),
    "compressed": (zip_of(changed(method=8)), UnsupportedFormatError, "'a/data/0' is compressed"),
    "encrypted": (zip_of(changed(flags=0x0809)), UnsupportedFormatError, "'a/data/0' is encrypted"),
    "two sizes": (zip_of(changed(packed=15)), CheckpointValidationError, "sizes 15 and 16"),
    "longer than it is": (zip_of(changed(size=64)), CheckpointValidationError, "overlaps"),
    "overlap": (zip_of(changed(header=20)), CheckpointValidationError, "overlaps"),
    "same place": (zip_of(changed(header=0)), CheckpointValidationError, "overlaps"),
    "outside": (zip_of(changed(header=1 << 30)), CheckpointValidationError, "overlaps"),
    "parent folder": (zip_of([PICKLE, STORAGE, Member("a/../b")]), CheckpointValidationError, "plain relative path"),
    "absolute": (zip_of([PICKLE, STORAGE, Member("/etc/x")]), CheckpointValidationError, "plain relative path"),
    "zero byte": (zip_of([PICKLE, STORAGE, Member("a/b\0c")]), CheckpointValidationError, "plain relative path"),
    "backslash": (zip_of([PICKLE, STORAGE, Member("a\\b")]), CheckpointValidationError, "plain relative path"),
    "no name": (zip_of([PICKLE, STORAGE, Member("")]), CheckpointValidationError, "plain relative path"),
    "no certain spelling": (
        zip_of([PICKLE, STORAGE, Member("ü", flags=8)]),
        UnsupportedFormatError,
        "certain spelling",
    ),
    "another name in its own header": (
        zip_of([Member("a/data.pkl", PICKLE.content, local_name="a/evil.pkl"), STORAGE]),
        CheckpointValidationError,
        "described differently",
    ),
    "second name": (
        zip_of(changed(directory_extra=struct.pack("<2H", 0x7075, 0))),
        CheckpointValidationError,
        "ambiguous extra field",
    ),
    "two 64-bit fields": (
        zip_of(changed(directory_extra=struct.pack("<2HQ", 1, 8, 16) * 2, size=0xFFFFFFFF)),
        CheckpointValidationError,
        "ambiguous extra field",
    ),
    "unused 64-bit field": (
        zip_of(changed(directory_extra=struct.pack("<2HQ", 1, 8, 16))),
        UnsupportedFormatError,
        "understand differently",
    ),
    "damaged extra field": (zip_of(changed(directory_extra=b"\1")), CheckpointValidationError, "damaged"),
    "too many entries": (zip_of([PICKLE, STORAGE], count=3), CheckpointValidationError, "ends inside entry 2 of 3"),
    "too few entries": (zip_of([PICKLE, STORAGE], count=1), CheckpointValidationError, "belong to no entry"),
    "comment": (zip_of([PICKLE, STORAGE], comment=b"hello"), UnsupportedFormatError, "5 bytes follow the end"),
    "trailing bytes": (zip_of([PICKLE, STORAGE]) + b"x" * 30, UnsupportedFormatError, "30 bytes follow the end"),
    "two archives": (zip_of([STORAGE]) + zip_of([PICKLE, STORAGE]), CheckpointValidationError, "not to what is before"),
    "wrong pickle CRC": (
        zip_of([Member("a/data.pkl", PICKLE.content, crc32=7), STORAGE]),
        CheckpointValidationError,
        "CRC-32",
    ),
    "two checkpoints": (
        zip_of([PICKLE, STORAGE, Member("b/data.pkl", PICKLE.content)]),
        UnsupportedFormatError,
        "no file of torch.save",
    ),
    "not of torch": (zip_of([Member("weights.npy", DATA)]), UnsupportedFormatError, "its members: 'weights.npy'"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_two_readers_could_understand_differently_is_refused(kind: str) -> None:
    content, error, message = HOSTILE[kind]
    with pytest.raises(error, match=message):
        index_of(content)


def test_bytes_before_the_archive_are_refused() -> None:
    for zip64 in (True, False):
        content = zip_of([PICKLE, STORAGE], zip64=zip64)
        with pytest.raises(CheckpointValidationError, match=r"not to what is before it|should end at byte"):
            index_of(b"PK\3\4" + content)


def test_an_empty_directory_behind_the_first_bytes_of_a_member_is_refused() -> None:
    front = b"PK\3\4" + bytes(30)
    with pytest.raises(CheckpointValidationError, match="lists no members"):
        index_of(front + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, len(front), 0))


def test_end_records_that_disagree_are_refused() -> None:
    content = bytearray(zip_of([PICKLE, STORAGE]))
    content[-14:-10] = struct.pack("<2H", 7, 7)
    with pytest.raises(CheckpointValidationError, match="7 in one end record and 2 in the other"):
        index_of(bytes(content))


def test_a_zip_file_cut_anywhere_is_refused() -> None:
    content = saved({"w": torch.randn(5)})
    for length in range(1, len(content)):
        with pytest.raises(CheckpointLoadError):
            index_of(content[:length])


def test_a_file_cut_before_its_directory_says_so() -> None:
    content = saved({"w": torch.randn(500)})
    with pytest.raises(
        TruncatedError,
        match=r"ends at byte 2000; bytes 2000\.\.\. are missing, the zip directory at its end among them",
    ):
        index_of(content[:2000])


def test_a_file_cut_in_its_last_record_names_the_missing_bytes() -> None:
    content = saved({"w": torch.randn(5)})
    with pytest.raises(TruncatedError, match=rf"bytes {len(content) - 3}\.\.\.{len(content)} of its last record"):
        index_of(content[:-3])


def test_archives_of_other_programs_are_read() -> None:
    content = saved({"w": torch.randn(500), "b": torch.randn(3)})
    assert_equals_torch(repacked(content))


def test_a_compressing_program_is_refused() -> None:
    content = saved({"w": torch.zeros(500)})
    with pytest.raises(UnsupportedFormatError, match=r"'archive/data.pkl' is compressed .* torch.save"):
        index_of(repacked(content, zipfile.ZIP_DEFLATED))


def test_members_that_others_append_are_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(saved({"w": torch.randn(50)}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/metadata/ai-models.json", "{}")
    assert_equals_torch(path.read_bytes())


def test_members_with_streamed_64_bit_sizes_are_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.randn(50)}))) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            with new.open(info.filename, "w", force_zip64=True) as member:
                member.write(old.read(info))
    assert_equals_torch(buffer.getvalue())


def test_storages_of_torch_are_located_without_a_request_for_each() -> None:
    content = saved({f"w{number}": torch.randn(1024) for number in range(300)})
    blob = BytesBlob(content)
    read_index(blob)
    assert len(blob.reads) < 12
    assert_equals_torch(content)


def test_storages_that_torch_did_not_write_are_looked_up_each() -> None:
    content = repacked(saved({f"w{number}": torch.randn(1024) for number in range(300)}))
    assert_equals_torch(content)


def test_storages_with_descriptors_that_torch_does_not_write_are_looked_up() -> None:
    content = zip_of([PICKLE, Member("a/data/0", DATA, local_extra=struct.pack("<2H", 0x4246, 0))])
    tensor = index_of(content).tensors["w"]  # 20 bytes behind the name: a longer descriptor, or 4 of padding
    assert content[tensor.start : tensor.start + 16] == DATA


def test_odd_local_headers_are_looked_up() -> None:
    content = zip_of([PICKLE, Member("a/data/0", DATA, local_extra=struct.pack("<2H", 0x1234, 7) + b"1234567")])
    tensor = index_of(content).tensors["w"]
    assert content[tensor.start : tensor.start + 20] == DATA + b"PK\7\x08"


def test_a_zero_crc_means_that_there_is_none() -> None:
    content = zip_of([PICKLE, Member("a/data/0", DATA, crc32=0)])
    assert index_of(content).tensors["w"].record.crc32 is None


def test_a_large_directory_is_fetched_once() -> None:
    storages = {str(number): DATA for number in range(1000)}
    blob = BytesBlob(checkpoint_of(pickled({"w": tensor_call()}), storages))
    index = read_index(blob)
    directory = len(blob.content) - struct.unpack("<Q", blob.content[-50:-42])[0]
    assert directory > SUFFIX
    assert index.metadata_bytes == blob.fetched < directory + 2048 + 1024


def test_storages_beyond_four_gigabytes_are_located(tmp_path: Path) -> None:
    path = tmp_path / "huge.pt"
    after = write_huge(path, (1 << 32) + 64)
    reader = MetadataReader(FileBlob(path))
    members = read_directory(reader)
    storages = Storages(reader, members, "a/data/", 64)
    big, small = storages["0"], storages["1"]
    assert (big.start % 64, big.size) == (0, (1 << 32) + 64)
    assert (small.start, small.size) == (after, 16)
    assert read_member(reader, members["a/data/1"]) == b"0123456789abcdef"


def write_huge(path: Path, size: int) -> int:
    """A sparse archive as torch lays it out; returns where the data of its second member begins."""
    directory = b""
    with path.open("wb") as file:
        for name, length, content in ((b"a/data/0", size, b""), (b"a/data/1", 16, b"0123456789abcdef")):
            header = file.tell()
            wide = [n for n in (length, length, header) if n >= 0xFFFFFFFF]
            extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
            padding = -(header + 30 + len(name) + len(extra) + 4) % 64
            local = extra + struct.pack("<2H", 0x4246, padding) + b"Z" * padding
            file.write(struct.pack("<4s5H3L2H", b"PK\3\4", 0, 0x0808, 0, 0, 0, 0, 0, 0, len(name), len(local)))
            file.write(name + local)
            start = file.tell()
            file.write(content)
            file.seek(start + length)
            file.write(b"PK\7\x08" + bytes(20 if wide else 12))
            directory += struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 0, 0, 0x0808, 0, 0, 0, 0, min(length, 0xFFFFFFFF), min(length, 0xFFFFFFFF),
                len(name), len(extra), 0, 0, 0, 0, min(header, 0xFFFFFFFF),
            ) + name + extra  # fmt: skip
        end = file.tell()
        file.write(directory)
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0, 0, 0, 0, 2, 2, len(directory), end))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end + len(directory), 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(directory), 0xFFFFFFFF, 0))
    return start
