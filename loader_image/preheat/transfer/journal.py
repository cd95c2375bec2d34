"""What a transfer has finished, written down beside its output: one that was killed goes on instead of beginning anew.

Nothing is made durable for it. Whoever goes on reads the output back and believes an entry only where the bytes still
have the checksums that it names; that costs a read of the volume, finds what a crash of the machine has lost as well,
and no transfer pays for it that is never killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from preheat.transfer.checksum import crc32

_OPENING = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Journal:
    """Entries by key, in a file that exists from the first one on; `found` holds those of an earlier transfer.

    `identity` says of what. The entries of something else are dropped, and so are a torn one and those behind it. The
    file is locked for as long as the journal is open, so that nobody goes on with the output of one that lives.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        self._identity = identity
        self._lock = threading.Lock()
        self._fd = -1
        self.found: dict[str, Any] = {}
        self._read()

    def add(self, key: str, value: Any) -> None:
        """Append an entry; raises OSError."""
        with self._lock:
            if self._fd < 0:
                self._fd = os.open(self._path, _OPENING | os.O_CREAT | os.O_EXCL, 0o666)
                _lock(self._fd)
                _append(self._fd, self._identity)
            _append(self._fd, [key, value])

    def close(self) -> None:
        """Close the file, which gives the lock up."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def _read(self) -> None:
        try:
            self._fd = os.open(self._path, _OPENING)
        except FileNotFoundError:
            return
        lines, length = _lines(self._fd), 0
        value, length = next(lines, (None, 0))
        if value == self._identity:
            _lock(self._fd)
            for (key, entry), end in lines:
                self.found[key], length = entry, end
            os.truncate(self._fd, length)
        else:
            self.close()
            self._path.unlink()


def _lock(fd: int) -> None:
    with suppress(OSError):  # a volume without locks: then nobody goes on
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _append(fd: int, value: Any) -> None:
    text = json.dumps(value, separators=(",", ":")).encode()
    line = memoryview(b"%08x %s\n" % (crc32(text), text))
    while line:
        line = line[os.write(fd, line) :]


def _lines(fd: int) -> Iterator[tuple[Any, int]]:
    """Values with the position behind each, up to the first line that is not whole."""
    position = 0
    with open(fd, "rb", closefd=False) as file:
        for line in file:
            checksum, _, text = line.removesuffix(b"\n").partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % crc32(text):
                return
            position += len(line)
            yield json.loads(text), position
