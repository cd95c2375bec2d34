"""The file that saving writes: in pieces of any kind, past the page cache or not, it is what safetensors reads."""

from __future__ import annotations

import errno
import mmap
import os
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from safetensors.torch import load_file

from preheat.saving import file
from preheat.saving.file import write_tensors
from preheat.saving.gathering import declared

SHAPES = some.lists(some.tuples(some.integers(0, 3000), some.sampled_from([1, 2, 5])), max_size=5)


def made(shapes: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    dtypes = (torch.float32, torch.uint8, torch.bfloat16)
    return {f"t{n}": torch.arange(a * b).view(a, b).to(dtypes[n % 3]) for n, (a, b) in enumerate(shapes)}


def check(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = folder / "file"
    path.unlink(missing_ok=True)
    written = write_tensors(path, declared(tensors), tensors.__getitem__)
    content = path.read_bytes()
    assert (len(content), zlib.crc32(content)) == (written.size, written.checksum)
    crcs = {name: zlib.crc32(value.view(torch.uint8).numpy().tobytes()) for name, value in tensors.items()}
    assert written.checksums == crcs
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SHAPES)
def test_it_is_what_the_library_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(file, "PIECE", 4096)
    check(tmp_path, made(shapes))


@pytest.mark.parametrize("times", [1, 2])  # for its memory alone; at all
def test_a_volume_may_refuse_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    write, refused = os.pwrite, []

    def refusing(target: int, view: memoryview, at: int) -> int:
        if at == 4096 and len(refused) < times:
            refused.append(at)
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(target, view, at)

    monkeypatch.setattr(os, "pwrite", refusing)
    monkeypatch.setattr(file, "PIECE", 4096)
    monkeypatch.setattr(file, "THREADS", 1)  # or another comes first
    check(tmp_path, made([(5000, 5)]))
    assert len(refused) == times


def test_memory_that_the_volume_takes_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_write_copy", None)
    aligned = torch.frombuffer(mmap.mmap(-1, 2 * file.PIECE), dtype=torch.float32)
    check(tmp_path, {"aligned": aligned.copy_(torch.arange(len(aligned)))})


def test_what_goes_wrong_in_a_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    tensors = made([(3000, 5)] * 9)
    monkeypatch.setattr(file, "PIECE", 4096)
    monkeypatch.setattr(file, "_write_copy", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "file", declared(tensors), tensors.__getitem__)
