"""Damaged checkpoints end in an error of Preheat's, or in the same index where padding or payload was hit."""

from __future__ import annotations

import contextlib
import random

import pytest
import torch
from formats.samples import BytesBlob, index_of, saved

from preheat.errors import CheckpointError, TruncatedError
from preheat.formats import read_index


@pytest.fixture(scope="module")
def small() -> bytes:
    tied = torch.randn(4)
    return saved({"state_dict": {"a": tied, "b": tied, "c": torch.randn(3)}, "epoch": 3, "x": {1, (2, 3)}})


def test_every_truncation_is_an_error(small: bytes) -> None:
    for length in range(len(small)):
        with pytest.raises(CheckpointError):
            index_of(small[:length])


def test_a_truncated_lightning_checkpoint_names_what_is_missing(lightning_checkpoint: bytes) -> None:
    length = len(lightning_checkpoint) // 2
    with pytest.raises(TruncatedError, match=f"the file ends at byte {length}; bytes {length}... are missing"):
        index_of(lightning_checkpoint[:length])


def test_every_flipped_bit_is_an_error_or_harmless(small: bytes) -> None:
    good = index_of(small)
    changed = 0
    for position in range(len(small)):
        damaged = bytearray(small)
        damaged[position] ^= 1 << random.Random(position).randrange(8)
        with contextlib.suppress(CheckpointError):
            changed += describes_other_bytes(good, read_index(BytesBlob(bytes(damaged))))
    assert changed == 0


def describes_other_bytes(good: object, found: object) -> bool:
    """Whether tensors or state differ; where only the CRC does, the transfer notices."""

    def facts(index: object) -> object:
        tensors = {n: (t.dtype, t.shape, t.start, t.strides) for n, t in index.tensors.items()}  # type: ignore[attr-defined]
        return tensors, index.state.get("epoch")  # type: ignore[attr-defined]

    return facts(good) != facts(found)
