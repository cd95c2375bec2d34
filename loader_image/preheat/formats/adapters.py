"""Adapters as peft saves them: weights in one file, and beside it in JSON what they adapt and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from preheat.blob import Blob, Folder
from preheat.formats.companions import present, read_json
from preheat.formats.files import read_file
from preheat.index import Index
from preheat.joined_blob import JoinedBlob

CONFIG = "adapter_config.json"
MAX_CONFIG = 1 << 20  # bytes


def members(folder: Folder, entry: Blob) -> Sequence[str]:
    """The configuration, where there is one."""
    return present(folder, [CONFIG])


def read_index(blob: JoinedBlob) -> Index:
    """The index of the weights, with the configuration under `adapter_config` in the state."""
    weights, config = blob.members
    index = read_file(weights.blob)
    state = {**index.state, "adapter_config": read_json(config.blob, MAX_CONFIG)}
    return replace(index, state=state, metadata_bytes=index.metadata_bytes + config.blob.size)
