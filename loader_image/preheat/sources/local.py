"""A checkpoint file on a disk or a mounted volume."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os.path import isdir
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from preheat.blob import Blob, Patience
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit
from preheat.stage import CheckpointSource, Place

if TYPE_CHECKING:
    from preheat.file_blob import LocalFolder

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class LocalSource(Place):
    """Read the checkpoint from a file or a folder."""

    example: ClassVar[str] = "local: {path: /preheat/incoming/model-v1.ckpt}"

    path: Annotated[str, Limit(min_length=1, max_length=4096)]
    """Path of the file or folder as the loader sees it; `~` is the home folder, links are followed."""

    def __post_init__(self) -> None:
        """A URL is refused, and not looked for as a file; what follows its scheme may hold a credential."""
        super().__post_init__()
        if url := _URL.match(self.path):
            raise CheckpointConfigError(
                f"LocalSource.path: {url[0]:.40}... is a URL, no path", remedy="Use s3, http, huggingFace or fsspec"
            )

    @property
    def uri(self) -> str:
        """The absolute path, links not resolved."""
        return str(Path(self.path).expanduser().absolute())

    @property
    def in_pod(self) -> bool:
        """Yes."""
        return True

    def below(self, path: str) -> LocalSource:
        """A path in the folder."""
        return LocalSource(str(Path(self.uri) / path))

    def tree(self, patience: Patience) -> LocalFolder:
        """The folder."""
        from preheat.file_blob import LocalFolder

        return LocalFolder(Path(self.uri))

    def beside(self, name: str) -> CheckpointSource:
        """A file of the folder, or of the one that the file is in."""
        path = Path(self.uri)
        return LocalSource(str((path if isdir(path) else path.parent) / name))

    def open(self, patience: Patience) -> Blob:
        """Pin every file by inode, modification time and size."""
        from preheat.file_blob import LocalFolder
        from preheat.formats.folders import open_in

        path = Path(self.uri)
        if isdir(path):  # unlike path.is_dir() it takes any text
            return open_in(LocalFolder(path))
        return open_in(LocalFolder(path.parent), path.name)
