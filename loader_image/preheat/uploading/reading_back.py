"""The checksum of what has arrived, where only reading it tells."""

from __future__ import annotations

from preheat.blob import Blob
from preheat.transfer.checksum import Crc64
from preheat.uploading.content import CHUNK


def crc64_of(blob: Blob) -> str:
    """CRC-64/NVME of a whole blob."""
    checksum = Crc64()
    for view in blob.stream(0, blob.size, memoryview(bytearray(CHUNK))):
        checksum.update(view)
    return checksum.hexdigest()
