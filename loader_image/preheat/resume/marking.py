"""Leaves the mark of this process in the first place that takes one.

Beside the run it is seen by whoever looks at the run. The volume with the bundles is as good where there is no cluster;
that of a pod ends with the pod, and is not for its training to write on. There the container's termination message is
left, from which the controller takes it to later pods.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from preheat.bundle.contents import PODS
from preheat.resume.last_words import LastWords
from preheat.resume.resumption import Resumption, Taken
from preheat.resume.starts import Starts, on_volume
from preheat.termination_message import message_path

log = logging.getLogger(__name__)


class Mark(Protocol):
    """What tells, until it is removed, that a process began from a checkpoint."""

    def remove(self) -> None:
        """The process came to its end in order, or never began."""
        ...


def leave_mark(decided: Resumption, taken: Taken, start: str, rank: int, folder: Path) -> Mark | None:
    """The mark of this process in a training with the id `start`; `folder` is that of its pod, on the bundles' volume.

    None where no place takes one, of which the log tells.
    """
    refusals = []
    for place, begin in _places(decided, taken, folder):
        try:
            return begin(start, rank)
        except OSError as error:
            refusals.append(f"{place}: {error.strerror}")
    log.warning("%s; so nobody will know if this process dies on %s", "; ".join(refusals), taken.name)
    return None


def _places(decided: Resumption, taken: Taken, folder: Path) -> Iterator[tuple[Path, Callable[[str, int], Mark]]]:
    if run := decided.resume.folder:
        yield run, lambda start, rank: Starts(run).begin(taken.name, start, rank)
    said = {"run": decided.resume.where, "checkpoint": taken.name, "saved": taken.modified, "began": time.time()}
    if folder.parent.name == PODS:
        volume = on_volume(folder.parent.parent, decided.resume)
        yield volume.run, lambda start, rank: volume.begin(taken.name, start, rank)
    message = message_path(os.environ)
    yield message, lambda start, rank: LastWords(message).begin(said, start, rank)
