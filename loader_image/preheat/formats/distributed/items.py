"""Opens the many small files inside of the big ones that torch.distributed.checkpoint writes, with few requests.

What describes a tensor stands before and behind its values; the end of one item and the beginning of the next are
neighbours and come in one request, as do items that are small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from preheat.errors import TruncatedError
from preheat.formats.distributed.metadata import Item
from preheat.formats.metadata import MetadataReader
from preheat.joined_blob import Member

HEAD = 1024  # pickle and headers before a tensor's values take some 700 bytes
TAIL = 1024  # the directory behind them some 850
SMALL = 16 * 1024  # such an item is read at once
GAP = 16 * 1024  # reading this much for nothing costs less than another request
MAX_WINDOW = 128 * 1024
THREADS = 16


@dataclass
class _Window:
    """Bytes of a file that are read at once, and the items that end in them."""

    file: str
    start: int
    stop: int
    ending: list[Item] = field(default_factory=list)


def readers(
    files: Mapping[str, Member], items: Iterable[Item], *, remote: bool
) -> Iterator[tuple[Item, MetadataReader]]:
    """A reader for each of the items, which are in the order of their bytes; it has its beginning and its end at hand.

    Raises TruncatedError for an item that reaches behind its file. Memory: two windows for each thread.
    """
    coming = _windows(items)
    last: tuple[_Window, bytes] | None = None
    with ThreadPoolExecutor(THREADS, thread_name_prefix="preheat") as pool:
        spread = pool.map if remote else map
        while batch := list(islice(coming, 2 * THREADS)):
            for pair in zip(batch, spread(partial(_read, files), batch), strict=True):
                for item in pair[0].ending:
                    yield item, _reader(files[item.file], item, [last, pair] if last else [pair])
                last = pair


def _windows(items: Iterable[Item]) -> Iterator[_Window]:
    window: _Window | None = None
    for item, start, stop in _pieces(items):
        if window and _fits(window, item.file, start, stop):
            window.stop = stop
        else:
            if window:
                yield window
            window = _Window(item.file, start, stop)
        if stop == item.stop:
            window.ending.append(item)
    if window:
        yield window


def _pieces(items: Iterable[Item]) -> Iterator[tuple[Item, int, int]]:
    for item in items:
        if item.stop - item.start <= SMALL:
            yield item, item.start, item.stop
        else:
            yield item, item.start, item.start + HEAD
            yield item, item.stop - TAIL, item.stop


def _fits(window: _Window, file: str, start: int, stop: int) -> bool:
    return window.file == file and start - window.stop <= GAP and stop - window.start <= MAX_WINDOW


def _read(files: Mapping[str, Member], window: _Window) -> bytes:
    blob = files[window.file].blob
    if window.stop > blob.size:
        raise TruncatedError(
            f"{window.file} ends at byte {blob.size}; bytes {window.start}...{window.stop} are missing",
            remedy="Copy the file again",
        )
    return blob.read(window.start, window.stop)


def _reader(file: Member, item: Item, known: Iterable[tuple[_Window, bytes]]) -> MetadataReader:
    reader = MetadataReader(file.blob, item.start, item.stop)
    for window, content in known:
        begin, end = max(window.start, item.start), min(window.stop, item.stop)
        if window.file == item.file and begin < end:
            reader.keep(begin - item.start, content[begin - window.start : end - window.start])
    return reader
