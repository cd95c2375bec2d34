"""Any storage that fsspec writes to. Each file travels as its filesystem sends files; what it is, the other end says.

A filesystem that can rename gets a file under another name first: there a file that is half written can be seen. In an
object store it cannot, and a rename would copy.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from preheat.blob import Patience
from preheat.errors import (
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    CheckpointTimeoutError,
    CheckpointValidationError,
)
from preheat.sources.attempts import Attempts, Interrupted
from preheat.sources.fsspec import FsspecSource
from preheat.sources.fsspec_blob import FsspecBlob
from preheat.sources.fsspec_files import error_of, open_files
from preheat.uploading.content import Content, Passed
from preheat.uploading.reading_back import crc64_of
from preheat.uploading.sending import paced
from preheat.uploading.target import Verify

#: Protocols of filesystems in which a rename is one step.
_RENAMING = frozenset({"file", "local", "sftp", "ssh", "ftp", "smb", "hdfs", "arrow_hdfs", "webdav", "webhdfs", "dav"})
_MD5 = ("md5Hash", "content_md5", "Content-MD5", "md5")

Answer = TypeVar("Answer")


class FsspecTarget:
    """The paths of a filesystem below the source's."""

    def __init__(self, source: FsspecSource, patience: Patience, verify: Verify) -> None:
        if "::" in source.url:
            raise CheckpointConfigError(
                "nothing is uploaded through a chain of filesystems", remedy="Name the storage itself"
            )
        if not source.url.endswith("/"):
            source = FsspecSource(source.url + "/", source.options)
        self.uri = source.uri
        self._patience = patience
        self._verify = verify
        self._files, place = open_files(source.url, source.options, patience.timeout_seconds)
        self._place = place.rstrip("/") + "/"
        self._ended = threading.Event()

    def put(self, content: Content, name: str, advance: Passed) -> bool:
        """Send the file, unless one with the same bytes is there."""
        if self._holds(content, name):
            advance(content.size)
            return False
        _, passed = paced(advance)
        path = self._place + name
        first = self._first(path)
        counted = _Counted(passed)
        self._patiently(lambda: self._files.put(str(content.path), first, counted.callback()), counted.again)
        counted.ended(content.size)
        content.check()
        if first != path:
            self._patiently(lambda: self._files.move(first, path))
        if not self._holds(content, name):
            raise CheckpointValidationError(
                f"{self.uri}{name} was sent and is not there as it was sent", remedy="Check the storage"
            )
        return True

    def read(self, name: str) -> bytes | None:
        """A document; None when it is not there."""
        try:
            return self._patiently(lambda: self._files.whole(self._place + name))
        except CheckpointNotFoundError:
            return None

    def write(self, name: str, document: bytes) -> None:
        """Replace a document."""
        path = self._place + name
        first = self._first(path)
        self._patiently(lambda: self._files.write(first, document))
        if first != path:
            self._patiently(lambda: self._files.move(first, path))

    def remove(self, name: str) -> None:
        """Remove a file."""
        with suppress(CheckpointNotFoundError):
            self._patiently(lambda: self._files.remove(self._place + name))

    def close(self) -> None:
        """Try nothing again."""
        self._ended.set()

    def _first(self, path: str) -> str:
        """The name under which a file is written first."""
        if not self._files.protocols & _RENAMING:
            return path
        folder, _, name = path.rpartition("/")
        return f"{folder}/.{name}.partial-{os.urandom(6).hex()}"

    def _holds(self, content: Content, name: str) -> bool:
        try:
            info = self._patiently(lambda: self._files.info(self._place + name))
        except CheckpointNotFoundError:
            return False
        return info.get("size") == content.size and (self._verify == "size" or self._same(content, name, info))

    def _same(self, content: Content, name: str, info: Mapping[str, Any]) -> bool:
        told = {_hexadecimal(info[key]) for key in _MD5 if info.get(key)}
        if told:
            return content.md5(0, content.size).hex() in told
        blob = FsspecBlob(self._files, self._place + name, self.uri + name, self._patience)
        return crc64_of(blob) == content.crc64(0, content.size).hexdigest()

    def _patiently(self, ask: Callable[[], Answer], again: Callable[[], None] = lambda: None) -> Answer:
        """What `ask` answers; what fails for no known reason is tried again within the target's patience."""
        attempts = Attempts(self.uri, self._patience, self._ended)
        while True:
            try:
                return ask()
            except CheckpointError:
                raise
            except Exception as error:  # of whichever package the filesystem is
                found = error_of(self.uri, error)
                if type(found) not in (CheckpointSourceError, CheckpointTimeoutError):
                    raise found from error
                again()
                attempts.again(Interrupted(found))


class _Counted:
    """Bytes of one file as its filesystem counts them, taken back when it begins again."""

    def __init__(self, advance: Passed) -> None:
        self._advance = advance
        self._count = 0

    def callback(self) -> Any:
        """What fsspec tells of bytes."""
        from fsspec.callbacks import Callback

        counted = self

        class Told(Callback):  # type: ignore[misc]
            def relative_update(self, inc: int = 1) -> None:
                counted._add(inc)

        return Told()

    def again(self) -> None:
        """Nothing has passed."""
        self._add(-self._count)

    def ended(self, size: int) -> None:
        """All of the file has passed: not every filesystem tells of its bytes."""
        self._add(size - self._count)

    def _add(self, count: int) -> None:
        self._count += count
        self._advance(count)


def _hexadecimal(digest: Any) -> str:
    """A digest in hexadecimal: storages spell it so, in base64, or as bytes."""
    if isinstance(digest, (bytes, bytearray)):
        return bytes(digest).hex()
    text = str(digest)
    if len(text) == 24:
        with suppress(ValueError):
            return base64.b64decode(text).hex()
    return text.lower()
