"""Writes tensors as a safetensors file, from the memory that they are in.

A few threads take pieces that begin where pages do, and write them past the page cache, where the volume allows it:
that is several times as fast as through it, and leaves the data of the training there. A volume that wants aligned
memory for it, which tensors have not, gets copies, made and looked at piece by piece in the processor's cache.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import torch

from preheat.formats.safetensors import PAGE, Declared, Header, offsets
from preheat.strategies.filling.tensors import memory_of
from preheat.transfer.checksum import combine, crc32
from preheat.transfer.output import opened
from preheat.transfer.placement import write

PIECE = 8 << 20
STRIDE = 256 << 10  # what the processor's cache holds while it is copied and looked at
THREADS = 4
_METADATA = {"format": "pt"}  # Transformers refuses a file that does not say it

#: A tensor's part of a piece: its name, the tensor, first byte and length.
Part = tuple[str, torch.Tensor, int, int]
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


def write_tensors(
    path: Path, tensors: Declared, bring: Callable[[str], torch.Tensor], metadata: Mapping[str, str] | None = None
) -> Written:
    """Write a file of the declared tensors; `bring` is asked for each once, in the order of the file, by this thread.

    What it brings is on the host and contiguous; `metadata` is for the header. The file is on the disk when it returns.
    Raises OSError and NoSpaceError.
    """
    header = bytes(Header(tensors, {**_METADATA, **(metadata or {})}))
    places = list(offsets(tensors))
    size = len(header) + (places[-1][2] if places else 0)
    written = Written(size, crc32(header), _of_nothing(tensors))
    with opened(path, size, None) as target:
        write(target, header, 0)
        with _past_the_cache(target), _Writers(target, written) as writers:
            at = len(header)
            for parts in _pieces((name, bring(name)) for name, _, _ in places):
                writers.put(parts, at)
                at += PIECE
            writers.finish()
        os.truncate(target, size)  # the last piece was filled up to a page
        os.fsync(target)
    return written


def _of_nothing(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, int]:
    return {name: 0 for name, (_, shape) in tensors.items() if 0 in shape}


def _pieces(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[list[Part]]:
    """All of the same length but the last."""
    parts: list[Part] = []
    room = PIECE
    for name, tensor in tensors:
        at, size = 0, tensor.nbytes
        while at < size:
            length = min(room, size - at)
            parts.append((name, tensor, at, length))
            room, at = room - length, at + length
            if not room:
                yield parts
                parts, room = [], PIECE
    if parts:
        yield parts


class _past_the_cache:  # noqa: N801 - a context manager, read as one
    """Direct writes to an open file, if it takes them: its pieces then have to be aligned."""

    def __init__(self, target: int) -> None:
        self._target = target

    def __enter__(self) -> None:
        with suppress(OSError, AttributeError):  # tmpfs; a system without such writes
            fcntl.fcntl(self._target, fcntl.F_SETFL, fcntl.fcntl(self._target, fcntl.F_GETFL) | os.O_DIRECT)

    def __exit__(self, *_: object) -> None:
        through_the_cache(self._target)


def through_the_cache(target: int) -> None:
    """Ordinary writes to an open file again."""
    flags = fcntl.fcntl(target, fcntl.F_GETFL)
    fcntl.fcntl(target, fcntl.F_SETFL, flags & ~getattr(os, "O_DIRECT", 0))


class _Writers:
    """Threads that write pieces, a few at a time. No pool: a save for which Python waits at its end cannot use one."""

    def __init__(self, target: int, written: Written) -> None:
        self._target, self._written = target, written
        self._queue: SimpleQueue[tuple[int, list[Part], int] | None] = SimpleQueue()
        self._room = threading.Semaphore(2 * THREADS)
        self._put = 0
        self._passed: dict[int, list[Passed]] = {}  # by number of the piece
        self._error: BaseException | None = None
        self._copies = False  # whether the volume wants other memory than the tensors'
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
        buffer = memoryview(mmap.mmap(-1, PIECE))  # begins where a page does
        while item := self._queue.get():
            number, parts, at = item
            try:
                if not self._error:
                    self._passed[number] = self._write(parts, at, buffer)
            except BaseException as error:
                self._error = error
            finally:
                del item, parts  # the tensors' memory may be much
                self._room.release()

    def _write(self, parts: list[Part], at: int, buffer: memoryview) -> list[Passed]:
        name, tensor, first, length = parts[0]
        if not self._copies and len(parts) == 1 and not length % PAGE:
            view = memory_of(tensor)[first : first + length]
            with _refused() as refusal:
                write(self._target, view, at)
            if not refusal:
                return [(name, crc32(view), length)]
            self._copies = True
        return _write_copy(self._target, parts, at, buffer)


def _write_copy(target: int, parts: list[Part], at: int, buffer: memoryview) -> list[Passed]:
    start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    passed, end = [], 0
    for name, tensor, first, length in parts:
        checksum = 0
        for offset in range(0, length, STRIDE):
            count = min(STRIDE, length - offset)
            # Unlike a slice it lets the other threads run.
            ctypes.memmove(start + end, tensor.data_ptr() + first + offset, count)
            checksum = crc32(buffer[end : end + count], checksum)
            end += count
        passed.append((name, checksum, length))
    whole = -(-end // PAGE) * PAGE
    buffer[end:whole] = bytes(whole - end)
    with _refused() as refusal:
        write(target, buffer[:whole], at)
    if refusal:  # a volume that takes no direct writes at all, and did not say so before
        through_the_cache(target)
        write(target, buffer[:whole], at)
    return passed


@contextmanager
def _refused() -> Iterator[list[OSError]]:
    """Keeps the error of a write whose memory, place or length the volume does not take."""
    refusal: list[OSError] = []
    try:
        yield refusal
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        refusal.append(error)
