"""Files that may lie beside a checkpoint and belong to it when they do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from preheat.blob import Blob, Folder
from preheat.errors import AccessDeniedError, CheckpointLoadError, CheckpointNotFoundError


def present(folder: Folder, names: Sequence[str]) -> list[str]:
    """Those of the files that are there; one that may not be read is as good as absent."""
    known = folder.names()
    return [
        name for name in names if (name in known if known is not None and "/" not in name else _opens(folder, name))
    ]


def read_json(blob: Blob, longest: int) -> Any:
    """What a document says; raises CheckpointLoadError for one that is none, or has more bytes than `longest`."""
    if blob.size > longest:
        raise CheckpointLoadError(f"{blob.uri} has {blob.size} bytes; {longest} are allowed for such a document")
    try:
        return json.loads(blob.read(0, blob.size).decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointLoadError(f"{blob.uri} is not valid JSON: {error}", remedy="Save it again") from error


def _opens(folder: Folder, name: str) -> bool:
    try:
        folder.open(name).close()
    except (CheckpointNotFoundError, AccessDeniedError):  # S3 denies a missing key to who may not list the bucket
        return False
    return True
