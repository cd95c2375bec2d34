"""From bytes to the index of a checkpoint: `files` tells what one file is, `folders` what several are together."""

from __future__ import annotations

from preheat.blob import Blob
from preheat.index import Index


def read_index(blob: Blob) -> Index:
    """The index of a checkpoint; raises a CheckpointLoadError that says what the bytes are instead."""
    from preheat.formats.files import read_file
    from preheat.formats.folders import read_folder
    from preheat.joined_blob import JoinedBlob

    return read_folder(blob) if isinstance(blob, JoinedBlob) else read_file(blob)
