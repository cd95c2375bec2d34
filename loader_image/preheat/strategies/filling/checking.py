"""Checks of a checkpoint that is loaded from its source in one process, before the model is touched.

The bytes are read twice on purpose: a model is not touched for bad ones. A bundle was verified when it was written; its
records carry no CRC and are not read again, because zlib alone would take longer than the whole load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from preheat.blob import Blob
from preheat.checks import Checks, Findings
from preheat.errors import CheckpointValidationError
from preheat.index import Record
from preheat.transfer.checksum import crc32
from preheat.transfer.digests import Digests

_BUFFER = 4 << 20


def check_before(blob: Blob, records: Iterable[Record], checks: Checks, findings: Findings) -> None:
    """Find out whether the object's digests and the records' CRC-32 are the declared ones."""
    if checks.whole:
        _check_whole(blob, checks, findings)
    if checks.crc32:
        check_records(blob, records, findings)


def _check_whole(blob: Blob, checks: Checks, findings: Findings) -> None:
    digests = Digests(blob, checks)
    buffer = memoryview(bytearray(_BUFFER))
    for piece in digests.pieces((), blob.size):
        update = digests.of(piece)
        for view in blob.stream(piece.start, piece.stop, buffer):
            update(view)
    digests.compare(findings)


def check_records(blob: Blob, records: Iterable[Record], findings: Findings) -> None:
    """Find records whose CRC-32 is not the one that their file declares."""
    buffer = memoryview(bytearray(_BUFFER))
    for record in dict.fromkeys(records):
        if record.crc32 is None:
            continue
        found = 0
        for piece in blob.stream(record.start, record.stop, buffer):
            found = crc32(piece, found)
        if found != record.crc32:
            error = CheckpointValidationError(
                f"record {record.name!r} of {blob.uri} (bytes {record.start}...{record.stop}) has CRC-32 {found:08x} "
                f"instead of {record.crc32:08x}",
                remedy="Copy or save the checkpoint again",
            )
            findings.add("crc32", error)


def check_finite(tensors: Mapping[str, torch.Tensor], findings: Findings) -> None:
    """Find tensors that hold NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            error = CheckpointValidationError(
                f"tensor {name!r} holds NaN or infinity",
                remedy="Take an earlier checkpoint, or verify: {finite: false}",
            )
            findings.add("finite", error)
