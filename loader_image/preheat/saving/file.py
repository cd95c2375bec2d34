"""Writes tensors as a safetensors file, straight from the memory that they are in.

The file is written in large pieces that begin where pages do, by a few threads; each computes its pieces' checksums
while they are in the processor's cache. No tensor is copied.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import torch

from preheat.errors import StorageError
from preheat.formats.safetensors import Declared, Header, offsets
from preheat.strategies.filling.tensors import memory_of
from preheat.transfer.checksum import combine, crc32
from preheat.transfer.output import opened

PIECE = 8 << 20
THREADS = 2
_METADATA = {"format": "pt"}  # Transformers refuses a file that does not say it
MOST_PARTS = 1000  # of one call; the kernel takes 1024

#: A tensor's part of a piece: its name, the tensor, which keeps the memory, and the bytes.
Part = tuple[str, torch.Tensor | None, memoryview]
#: What was written of it: its name, CRC-32 and length.
Passed = tuple[str, int, int]


@dataclass
class Written:
    """A finished file."""

    size: int
    checksum: int = 0  # CRC-32 of all of it
    checksums: dict[str, int] = field(default_factory=dict)  # of each tensor

    def add(self, passed: Iterable[Passed]) -> None:
        """Go on with what follows in the file."""
        for name, checksum, length in passed:
            self.checksum = combine(self.checksum, checksum, length)
            if name:
                known = self.checksums.get(name)
                self.checksums[name] = checksum if known is None else combine(known, checksum, length)


def write_tensors(path: Path, tensors: Declared, bring: Callable[[str], torch.Tensor]) -> Written:
    """Write a file of the declared tensors; `bring` is asked for each once, in the order of the file, by this thread.

    What it brings is on the host and contiguous. The file is on the disk when it returns; raises OSError and
    NoSpaceError.
    """
    header = Header(tensors, _METADATA)
    places = list(offsets(tensors))
    written = Written(header.size + (places[-1][2] if places else 0), checksums=_of_nothing(tensors))
    with opened(path, written.size, None) as target, _Writers(target, written) as writers:
        at = 0
        for text in header.pieces():
            writers.put([("", None, memoryview(text))], at)
            at += len(text)
        for parts in _pieces((name, bring(name)) for name, _, _ in places):
            writers.put(parts, at)
            at += sum(len(view) for _, _, view in parts)
        writers.finish()
        os.fsync(target)
    return written


def _of_nothing(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, int]:
    return {name: 0 for name, (_, shape) in tensors.items() if 0 in shape}


def _pieces(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[list[Part]]:
    parts: list[Part] = []
    room = PIECE
    for name, tensor in tensors:
        view = memory_of(tensor)
        while view:
            parts.append((name, tensor, view[:room]))
            room -= len(parts[-1][2])
            view = view[len(parts[-1][2]) :]
            if not room or len(parts) == MOST_PARTS:
                yield parts
                parts, room = [], PIECE
    if parts:
        yield parts


class _Writers:
    """Threads that write pieces, a few at a time. No pool: a save for which Python waits at its end cannot use one."""

    def __init__(self, target: int, written: Written) -> None:
        self._target, self._written = target, written
        self._queue: SimpleQueue[tuple[int, list[Part], int] | None] = SimpleQueue()
        self._room = threading.Semaphore(2 * THREADS)
        self._put = 0
        self._passed: dict[int, list[Passed]] = {}  # by number of the piece
        self._error: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, name=f"preheat-saving-{n}") for n in range(THREADS)]

    def __enter__(self) -> _Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def put(self, parts: list[Part], at: int) -> None:
        """Have a piece written when there is room; raises what went wrong with one before."""
        self._room.acquire()
        self._raise()
        self._queue.put((self._put, parts, at))
        self._put += 1

    def finish(self) -> None:
        """Wait for all pieces; raises what went wrong with one of them."""
        self.__exit__()
        self._threads = []
        self._raise()
        for number in range(self._put):
            self._written.add(self._passed[number])

    def _raise(self) -> None:
        if self._error:
            raise self._error

    def _work(self) -> None:
        while item := self._queue.get():
            number, parts, at = item
            try:
                if not self._error:
                    self._passed[number] = [(name, crc32(view), len(view)) for name, _, view in parts]
                    _write_all(self._target, [view for _, _, view in parts], at)
            except BaseException as error:
                self._error = error
            finally:
                del item, parts  # the tensors' memory may be much
                self._room.release()


def _write_all(target: int, views: list[memoryview], at: int) -> None:
    while views:
        count = os.pwritev(target, views, at)
        if not count:
            raise StorageError("the volume took none of the bytes", remedy="Check the volume")
        at += count
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if views:
            views[0] = views[0][count:]
