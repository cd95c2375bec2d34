"""Who began from which checkpoint: a mark beside the run's checkpoints, which goes when its process ends in order.

What is left are processes that died. Whoever reads decides what a mark means (`decision.failures`). Each rank has a
mark of its own: one that dies is enough. A run that is no folder, or cannot be written, has its marks on the volume of
bundles where there is no cluster, and in a pod in the container's termination message (`last_words`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from preheat.resume.decision import Start
from preheat.resume.settings import Resume

STARTS = ".preheat-starts"
#: On a volume with bundles: folders of runs elsewhere, with their marks.
RUNS = "runs"
_LONGEST = 4096  # bytes of a mark; others may write there


@dataclass(frozen=True)
class FileMark:
    """The mark of this process."""

    path: Path

    def remove(self) -> None:
        """The process came to its end in order, or never began."""
        with suppress(OSError):
            self.path.unlink()


@dataclass(frozen=True)
class Starts:
    """The marks in a run's folder."""

    run: Path
    own: bool = False  # whether the folder is there for the marks alone

    def read(self) -> Iterator[Start]:
        """All that are there; what is none is left alone."""
        for path in sorted((self.run / STARTS).glob("*.json")):
            with suppress(OSError, ValueError, TypeError, KeyError):
                with open(path, "rb") as file:
                    document = json.loads(file.read(_LONGEST))
                yield Start(str(document["id"]), str(document["checkpoint"]), path.stat().st_mtime, path.name)

    def begin(self, checkpoint: str, start: str, rank: int) -> FileMark:
        """Leave this process's mark; raises OSError."""
        folder = self.run / STARTS
        folder.mkdir(exist_ok=True, parents=self.own)
        path = folder / f"{start}-{rank}.json"
        scratch = folder / f".{path.name}"  # nobody looks for it
        scratch.write_text(
            json.dumps({"checkpoint": checkpoint, "id": start, "rank": rank, "host": os.uname().nodename})
        )
        scratch.rename(path)
        return FileMark(path)

    def forget(self, starts: Iterable[Start]) -> None:
        """Remove marks that say nothing any more."""
        for start in starts:
            with suppress(OSError):
                (self.run / STARTS / start.mark).unlink()


def on_volume(volume: Path, resume: Resume) -> Starts:
    """The marks of a run that are on the volume with the bundles."""
    return Starts(volume / RUNS / sha256(resume.where.encode()).hexdigest()[:32], own=True)
