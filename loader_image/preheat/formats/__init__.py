"""What a blob is, told by its first bytes, and its index. The table is the list of what Preheat reads."""

from __future__ import annotations

from preheat.blob import Blob
from preheat.formats import safetensors
from preheat.formats.metadata import MetadataReader
from preheat.index import Index


def read_index(blob: Blob) -> Index:
    """The index of a checkpoint; raises a CheckpointLoadError that says what the bytes are instead."""
    return safetensors.read_index(MetadataReader(blob))
