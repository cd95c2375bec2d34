"""A whole object into a file, byte for byte, by the same threads that a transfer has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from preheat.blob import Blob
from preheat.bundle.storage import storage_errors
from preheat.transfer.output import opened
from preheat.transfer.pace import LOCAL, REMOTE, ramped
from preheat.transfer.placement import write
from preheat.transfer.workers import work_off


def copy(blob: Blob, path: Path, advance: Callable[[int], None] = lambda count: None) -> None:
    """Write all bytes of `blob` to the new file `path`; when it raises, the file is incomplete and the blob closed."""
    pace = REMOTE if blob.remote else LOCAL
    size, received = ramped(pace, advance)
    step = pace.piece_of(blob.size)
    with storage_errors(path.parent), opened(path, blob.size, None) as target:

        def work(starts: Iterator[int]) -> None:
            buffer = memoryview(bytearray(pace.buffer_of(size())))
            for start in starts:
                position = start
                for view in blob.stream(start, min(start + step, blob.size), buffer):
                    write(target, view, position)
                    position += len(view)
                    received(len(view))

        work_off(range(0, blob.size, step), size, work, blob.close)
