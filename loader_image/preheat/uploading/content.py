"""A file that is sent: pinned to what it was when it was opened, read by ranges, never into memory as a whole."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import socket

from preheat.errors import CheckpointNotFoundError, SourceChangedError, StorageError
from preheat.sources.tls import TLSSocket
from preheat.transfer.checksum import Crc64

#: Bytes that are read, or handed to the kernel, at once.
CHUNK = 512 << 10

Passed = Callable[[int], None]


class Content:
    """The bytes of one file. Safe in several threads; what was replaced or written to meanwhile is not used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # A link that the training laid could lead to what is not the training's to give away.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CheckpointNotFoundError(f"{path} was removed") from None
        except OSError as error:
            raise StorageError(
                f"{path} cannot be read: {error.strerror}", remedy="Let the user of the upload read what is saved"
            ) from error
        self._file = open(fd, "rb", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._pin = self._now()
        self.size = self._pin[2]
        self._buffers = threading.local()

    def __enter__(self) -> Content:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def modified(self) -> float:
        """When it was written to last."""
        return os.fstat(self._file.fileno()).st_mtime

    def check(self) -> None:
        """Raise SourceChangedError when the file is not what it was."""
        if self._now() != self._pin:
            raise self.changed()

    def changed(self) -> SourceChangedError:
        """The file was written to, or replaced."""
        return SourceChangedError(f"{self.path} was changed while it was sent", remedy="It is sent again once it rests")

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Bytes [start, stop) in slices that are valid until the next one is asked for."""
        buffer = self._buffer()
        while start < stop:
            try:
                count = os.preadv(self._file.fileno(), [buffer[: min(len(buffer), stop - start)]], start)
            except OSError as error:
                raise StorageError(
                    f"{self.path} cannot be read: {error.strerror}", remedy="Check the volume"
                ) from error
            if not count:
                raise self.changed()
            yield buffer[:count]
            start += count

    def read(self) -> bytes:
        """All of it: for documents."""
        return b"".join(bytes(chunk) for chunk in self.chunks(0, self.size))

    def crc64(self, start: int, stop: int) -> Crc64:
        """CRC-64/NVME of bytes [start, stop)."""
        checksum = Crc64()
        for chunk in self.chunks(start, stop):
            checksum.update(chunk)
        return checksum

    def md5(self, start: int, stop: int) -> bytes:
        """MD5 of bytes [start, stop), which many stores call an ETag: slow, and no safeguard against malice."""
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in self.chunks(start, stop):
            digest.update(chunk)
        return digest.digest()

    def send(self, to: socket, start: int, stop: int, passed: Passed) -> None:
        """Write bytes [start, stop) to a socket; `passed` is told of them as they go."""
        if isinstance(to, TLSSocket):
            for chunk in self.chunks(start, stop):
                to.sendall(chunk)
                passed(len(chunk))
            return
        while start < stop:  # the kernel sends out of its own memory
            count = to.sendfile(self._file, start, min(CHUNK, stop - start))
            if not count:
                raise self.changed()
            passed(count)
            start += count

    def _now(self) -> tuple[int, int, int]:
        found = os.fstat(self._file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{self.path} is no file")
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _buffer(self) -> memoryview:
        if not hasattr(self._buffers, "view"):
            self._buffers.view = memoryview(bytearray(CHUNK))
        view: memoryview = self._buffers.view
        return view
