"""One pass over the bytes of a piece: whoever moves or checks a checkpoint sees them, and all checksums come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from preheat.blob import Blob
from preheat.transfer.checksum import crc32
from preheat.transfer.pieces import Piece, Stretch

#: Is given bytes of a stretch and the first one's position in the source; the bytes are valid until it returns.
See = Callable[[Stretch, memoryview, int], None]


def read_piece(
    blob: Blob, piece: Piece, buffer: memoryview, see: See, watch: Callable[[memoryview], None]
) -> Iterator[tuple[Stretch, int]]:
    """Read a piece through `buffer` and show it to `see`; yields its stretches with their CRC-32, in order.

    `watch` is shown every byte, those between the stretches too.
    """
    position, checksum = piece.start, 0
    coming = iter(piece.stretches)
    stretch = next(coming, None)
    for view in blob.stream(piece.start, piece.stop, buffer):
        end = position + len(view)
        while stretch and stretch.start < end:
            begin = max(stretch.start, position)
            part = view[begin - position : min(stretch.stop, end) - position]
            checksum = crc32(part, checksum)
            see(stretch, part, begin)
            if stretch.stop > end:
                break
            yield stretch, checksum
            stretch, checksum = next(coming, None), 0
        watch(view)
        position = end
