"""A checkpoint file on a disk or a mounted volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from preheat.blob import Blob, Patience
from preheat.stage import CheckpointSource, Limit


@dataclass(frozen=True)
class LocalSource(CheckpointSource):
    """Read the checkpoint from a file."""

    path: Annotated[str, Limit(min_length=1, max_length=4096)]
    """Path of the file as the loader sees it; `~` is the home folder, links are followed."""

    @property
    def uri(self) -> str:
        """The absolute path, links not resolved."""
        return str(Path(self.path).expanduser().absolute())

    def open(self, patience: Patience) -> Blob:
        """Pin the file by inode, modification time and size."""
        from preheat.sources.file_blob import FileBlob

        return FileBlob(Path(self.uri))
