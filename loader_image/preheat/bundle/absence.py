"""What stands in the place of a pod's bundle when its training goes on without: a file that says why there is none.

The loader writes it where `onFailure: Continue` passes over its failure; such a folder has no manifest. What cannot be
read as one is no absence: a training process that finds neither fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preheat.errors import CheckpointError, NotABundleError

ABSENCE = "absence.json"

_LONGEST = 64 * 1024  # bytes; others may write to the volume
_SAID = 4000  # characters of a message, each of which JSON may make twelve of


@dataclass(frozen=True)
class Absence:
    """Why a pod has no checkpoint."""

    pipeline: str
    error: CheckpointError

    def to_json(self) -> dict[str, Any]:
        """The file's document, which is also the loader's message."""
        error = self.error
        said = " ".join(str(error.args[0]).split())[:_SAID]
        return {"outcome": "continued", "reason": error.reason, "message": said, "remedy": error.remedy,
                "pipeline": self.pipeline}  # fmt: skip

    def write(self, folder: Path) -> None:
        """Make `folder` with the file in it; raises OSError."""
        folder.mkdir()
        (folder / ABSENCE).write_text(json.dumps(self.to_json()))


def absence_in(folder: Path) -> Absence | None:
    """The absence that a folder tells of; None when it tells of none. Raises NotABundleError for an unreadable one."""
    try:
        with open(folder / ABSENCE, "rb") as file:
            document = json.loads(file.read(_LONGEST))
        reason, message, remedy = (str(document[key]) for key in ("reason", "message", "remedy"))
        return Absence(str(document["pipeline"]), _class_of(reason)(message, remedy=remedy))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotABundleError(f"{folder / ABSENCE} cannot be read: {type(error).__name__}: {error}") from error


def _class_of(reason: str) -> type[CheckpointError]:
    return next((kind for kind in _kinds(CheckpointError) if kind.reason == reason), CheckpointError)


def _kinds(kind: type[CheckpointError]) -> Iterator[type[CheckpointError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)
