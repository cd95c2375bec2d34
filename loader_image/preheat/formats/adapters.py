"""Adapters as peft saves them: weights in one file, and beside it in JSON what they adapt and how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from preheat.blob import Blob, Folder
from preheat.errors import CheckpointLoadError
from preheat.formats.companions import present
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
    state = {**index.state, "adapter_config": _config(config.blob)}
    return replace(index, state=state, metadata_bytes=index.metadata_bytes + config.blob.size)


def _config(blob: Blob) -> object:
    if blob.size > MAX_CONFIG:
        raise CheckpointLoadError(f"{blob.uri} has {blob.size} bytes; {MAX_CONFIG} are allowed for a configuration")
    try:
        return json.loads(blob.read(0, blob.size).decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointLoadError(f"{blob.uri} is not valid JSON: {error}", remedy="Save the adapter again") from error
