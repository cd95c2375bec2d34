"""From bytes to the index of a checkpoint.

`files` tells what one file is, `folders` what several are together, `merged` what several checkpoints become.
"""

from __future__ import annotations

from weakref import finalize

from preheat.blob import Blob
from preheat.index import Index

#: Indexes that were read before anybody asked, of blobs whose opening had to make sure that they have one: by the
#: blob's identity, for as long as it lives. Blobs are other people's, too, and need not be hashable.
_ahead: dict[int, Index] = {}


def read_index(blob: Blob) -> Index:
    """The index of a checkpoint; raises a CheckpointLoadError that says what the bytes are instead."""
    if known := _ahead.pop(id(blob), None):
        return known
    from preheat.formats.files import read_file
    from preheat.formats.folders import read_folder
    from preheat.formats.merged import MergedBlob, read_merged
    from preheat.joined_blob import JoinedBlob

    if isinstance(blob, MergedBlob):
        return read_merged(blob, read_index)
    return read_folder(blob) if isinstance(blob, JoinedBlob) else read_file(blob)


def read_ahead(blob: Blob) -> Index:
    """As `read_index`, which will give the same one without reading again."""
    index = _ahead[id(blob)] = read_index(blob)
    finalize(blob, _ahead.pop, id(blob), None).atexit = False
    return index
