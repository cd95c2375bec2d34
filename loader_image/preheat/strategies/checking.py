"""Checks of a checkpoint that is loaded from its source in one process, before the model is touched.

The bytes are read twice on purpose: a model is not touched for bad ones. A bundle was verified when it was written; its
records carry no CRC and are not read again, because zlib alone would take longer than the whole load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch

from preheat.blob import Blob
from preheat.checks import Checks
from preheat.errors import CheckpointValidationError
from preheat.index import Record
from preheat.transfer.checksum import crc32

_BUFFER = 4 << 20


def check_before(blob: Blob, records: Iterable[Record], checks: Checks) -> None:
    """Raise CheckpointValidationError when the object's SHA-256 or a record's CRC-32 is not the declared one."""
    if checks.sha256:
        digest = hashlib.sha256()
        for piece in blob.stream(0, blob.size, memoryview(bytearray(_BUFFER))):
            digest.update(piece)
        if digest.hexdigest() != checks.sha256:
            raise CheckpointValidationError(
                f"{blob.uri} has SHA-256 {digest.hexdigest()} instead of {checks.sha256}",
                remedy="Copy the checkpoint again, or correct the pipeline",
            )
    if checks.crc32:
        check_records(blob, records)


def check_records(blob: Blob, records: Iterable[Record]) -> None:
    """Raise CheckpointValidationError when a record's CRC-32 is not the one that its file declares."""
    buffer = memoryview(bytearray(_BUFFER))
    for record in dict.fromkeys(records):
        if record.crc32 is None:
            continue
        found = 0
        for piece in blob.stream(record.start, record.stop, buffer):
            found = crc32(piece, found)
        if found != record.crc32:
            raise CheckpointValidationError(
                f"record {record.name!r} of {blob.uri} (bytes {record.start}...{record.stop}) has CRC-32 {found:08x} "
                f"instead of {record.crc32:08x}",
                remedy="Copy or save the checkpoint again",
            )


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise CheckpointValidationError for the first tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointValidationError(
                f"tensor {name!r} holds NaN or infinity",
                remedy="Take an earlier checkpoint, or verify: {finite: false}",
            )
