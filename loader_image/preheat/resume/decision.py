"""Which checkpoint of a run a start goes on from: the best of those that nothing speaks against.

Pure but for the last word, which has whoever tries to use a checkpoint: its bytes may be damaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from preheat.errors import (
    CheckpointError,
    CheckpointLoadError,
    CheckpointNotFoundError,
    CheckpointValidationError,
    NotABundleError,
    NothingMatchedError,
    SourceChangedError,
)
from preheat.resume.settings import Resume
from preheat.runs.position import Position

#: What is wrong with one checkpoint, such that another may do. Whoever does not answer, or refuses access, is no
#: reason to go on from an older one, or from the beginning.
UNUSABLE: tuple[type[CheckpointError], ...] = (
    CheckpointLoadError,
    CheckpointValidationError,
    CheckpointNotFoundError,  # removed while it was looked at
    SourceChangedError,
    NothingMatchedError,  # without an optimizer's state
    NotABundleError,
)

Used = TypeVar("Used")


@dataclass(frozen=True)
class Candidate:
    """One complete checkpoint of a run."""

    name: str
    modified: float  # when it was saved: seconds since the epoch, by the clock of its place
    position: Position | None = None  # that the training had reached
    folder: Path | None = None  # of one that Preheat saved on a disk: it is a bundle already


@dataclass(frozen=True)
class Start:
    """A process that began from a checkpoint and, as far as is known, did not end in order."""

    id: str  # the same for all ranks of one training
    checkpoint: str
    time: float  # by the clock of the checkpoints' place
    mark: str = ""  # what tells of it


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint that was not taken, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Decision(Generic[Used]):
    """What a start goes on from; `taken` is None where none of the run's checkpoints can be used."""

    taken: Candidate | None
    used: Used | None
    passed: tuple[PassedOver, ...]


def decide(
    candidates: Iterable[Candidate], starts: Iterable[Start], resume: Resume, use: Callable[[Candidate], Used]
) -> Decision[Used]:
    """The first of `candidates`, best first, that can be used; `use` raises one of UNUSABLE for one that cannot."""
    found, passed = list(candidates), list[PassedOver]()
    died = failures(starts, found)
    for candidate in found:
        deaths = died[candidate.name]
        if resume.max_failures and deaths >= resume.max_failures:
            passed.append(PassedOver(candidate.name, f"poisoned: {_died(deaths)} on it, and none came past it"))
            continue
        try:
            return Decision(candidate, use(candidate), tuple(passed))
        except UNUSABLE as error:
            said = str(error.args[0]).rpartition(f"{candidate.name}/: ")[2]  # which one is told already
            passed.append(PassedOver(candidate.name, f"{error.reason}: {said}"))
    return Decision(None, None, tuple(passed))


def _died(deaths: int) -> str:
    return f"{deaths} processes died" if deaths > 1 else "a process died"


def failures(starts: Iterable[Start], candidates: Sequence[Candidate]) -> Counter[str]:
    """How many trainings have died on each checkpoint, and have not come past it."""
    dead = {(start.checkpoint, start.id) for start in starts if counts(start, candidates)}
    return Counter(checkpoint for checkpoint, _ in dead)


def counts(start: Start, candidates: Sequence[Candidate]) -> bool:
    """Whether a start still speaks against its checkpoint: since then neither that nor one beyond it was saved."""
    begun = next((each for each in candidates if each.name == start.checkpoint), None)
    return begun is not None and not any(each.modified > start.time for each in candidates if _reaches(each, begun))


def _reaches(one: Candidate, other: Candidate) -> bool:
    """Whether a training that has saved `one` has come to where `other` is; where nobody knows, later is further."""
    if one is other or not (one.position and other.position):
        return True
    return one.position.order > other.position.order
