"""The bytes of a checkpoint that several processes wrote, a file each."""

from __future__ import annotations

from pathlib import Path

from preheat.blob import Blob
from preheat.bundle.manifest import MANIFEST


def open_shards(folder: Path) -> Blob:
    """All files of such a checkpoint of Preheat's as one; raises a CheckpointSourceError."""
    from preheat.file_blob import LocalFolder
    from preheat.formats.folders import open_in

    return open_in(LocalFolder(folder), MANIFEST)
