"""Files that may lie beside a checkpoint and belong to it when they do."""

from __future__ import annotations

from collections.abc import Sequence

from preheat.blob import Folder
from preheat.errors import AccessDeniedError, CheckpointNotFoundError


def present(folder: Folder, names: Sequence[str]) -> list[str]:
    """Those of the files that are there; one that may not be read is as good as absent."""
    known = folder.names()
    return [
        name for name in names if (name in known if known is not None and "/" not in name else _opens(folder, name))
    ]


def _opens(folder: Folder, name: str) -> bool:
    try:
        folder.open(name).close()
    except (CheckpointNotFoundError, AccessDeniedError):  # S3 denies a missing key to who may not list the bucket
        return False
    return True
