"""A folder of this machine that is written to: another disk, a file system of the network."""

from __future__ import annotations

import os
from pathlib import Path

from preheat.bundle.storage import storage_errors, sync
from preheat.errors import CheckpointValidationError
from preheat.sources.local import LocalSource
from preheat.uploading.content import Content, Passed
from preheat.uploading.target import Verify


class LocalTarget:
    """Files appear under their names when they are whole and on the disk."""

    def __init__(self, source: LocalSource, verify: Verify) -> None:
        self._root = Path(source.uri)
        self.uri = f"{self._root}/"
        self._verify = verify

    def put(self, content: Content, name: str, advance: Passed) -> bool:
        """Copy the file, unless one with the same bytes is there."""
        if self._holds(content, self._root / name):
            advance(content.size)
            return False
        path, partial = self._place(name)
        try:
            with storage_errors(self._root), open(partial, "wb", buffering=0) as file:
                for chunk in content.chunks(0, content.size):
                    file.write(chunk)
                    advance(len(chunk))
                os.fsync(file.fileno())
            content.check()
            if not self._holds(content, partial):
                raise CheckpointValidationError(f"{path} was written and reads otherwise", remedy="Check the volume")
            with storage_errors(self._root):
                partial.rename(path)
                sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def read(self, name: str) -> bytes | None:
        """A document; None when it is not there."""
        try:
            return (self._root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, document: bytes) -> None:
        """Replace a document."""
        path, partial = self._place(name)
        with storage_errors(self._root):
            partial.write_bytes(document)
            sync(partial)
            partial.rename(path)
            sync(path.parent)

    def remove(self, name: str) -> None:
        """Remove a file, and the folders that are empty without it."""
        path = self._root / name
        with storage_errors(self._root):
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._root or any(folder.iterdir()):
                    break
                folder.rmdir()

    def close(self) -> None:
        """Nothing: a copy ends when its thread does."""

    def _place(self, name: str) -> tuple[Path, Path]:
        path = self._root / name
        with storage_errors(self._root):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path, path.with_name(f".{path.name}.partial-{os.urandom(6).hex()}")

    def _holds(self, content: Content, path: Path) -> bool:
        if not path.is_file() or path.stat().st_size != content.size:
            return False
        if self._verify == "size":
            return True
        with Content(path) as other:
            return other.crc64(0, other.size).hexdigest() == content.crc64(0, content.size).hexdigest()
