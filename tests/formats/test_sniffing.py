"""What a file is, told by its first bytes, and what a person is told when it is nothing that Preheat reads."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import torch
from formats.samples import BytesBlob, index_of, pickled, saved

from preheat.errors import CheckpointLoadError, UnsupportedFormatError
from preheat.file_blob import FileBlob
from preheat.formats import read_index


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


NAMED = {
    "a tar archive": tar(),
    "a bare pickle": pickled({"w": 1}),
    "an empty zip archive": b"PK\5\6" + bytes(18),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "a web page": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
    "a JSON file": b'{"metadata": {"total_size": 3}, "weight_map": {}}',
    "gzip data": b"\x1f\x8b\x08\0more",
    "zstd data": b"\x28\xb5\x2f\xfdmore",
    "an HDF5 file": b"\x89HDF\r\n\x1a\nmore",
    "a GGUF file": b"GGUF\3\0\0\0",
    "a numpy array": b"\x93NUMPY\1\0",
}


@pytest.mark.parametrize("name", NAMED)
def test_known_files_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=f"looks like {name}") as caught:
        index_of(NAMED[name])
    assert caught.value.remedy
    assert NAMED[name][:4].hex(" ") in str(caught.value)


def test_an_s3_error_document_is_a_web_page() -> None:
    with pytest.raises(UnsupportedFormatError, match="login page or an error page"):
        index_of(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')


def test_unknown_bytes_are_shown_escaped_beside_what_is_read() -> None:
    with pytest.raises(UnsupportedFormatError, match=r"torch zip, safetensors, torch before 1\.6") as caught:
        index_of(b"\x1b[31mred")
    assert "1b 5b 33 31" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(CheckpointLoadError, match="the file is empty"):
        index_of(b"")


def test_a_local_file_is_read_by_its_blob(tmp_path: Path) -> None:
    path = tmp_path / "model.anything"
    path.write_bytes(saved({"w": torch.ones(2)}))
    blob = FileBlob(path)
    assert list(read_index(blob).tensors) == ["w"]
    blob.close()


def test_unreadable_files_cost_one_small_read() -> None:
    blob = BytesBlob(b"nothing" * 100_000)
    with pytest.raises(UnsupportedFormatError):
        read_index(blob)
    assert blob.reads == [(0, 1024)]
