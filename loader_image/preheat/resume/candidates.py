"""The checkpoints of a run that a start may go on from, best first, as one listing of its place shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preheat.blob import Patience
from preheat.errors import CheckpointError, CheckpointNotFoundError
from preheat.resume.decision import Candidate, PassedOver
from preheat.resume.settings import Resume
from preheat.sources.local import LocalSource

if TYPE_CHECKING:
    from preheat.runs.checkpoint import Checkpoint


@dataclass(frozen=True)
class Listed:
    """What a run has."""

    candidates: tuple[Candidate, ...] = ()
    passed: tuple[PassedOver, ...] = ()  # what can be told of without a look inside
    nothing: str = ""  # why there is no candidate


def candidates(resume: Resume, patience: Patience) -> Listed:
    """Those that are there now; none where the run has not begun. Raises where its place does not answer."""
    from preheat.runs.listing import Listing

    listing = Listing(resume.run.place.tree(patience))
    if not listing.entries:
        return Listed(nothing=f"there is nothing in {listing.uri} yet")
    try:
        found = resume.run.among(listing)
    except CheckpointNotFoundError as error:
        return Listed(nothing=str(error.args[0]))
    every = [each.checkpoint for each in found]
    passed = [
        PassedOver(each.checkpoint.name, each.reason) for each in found.unfit if _newer(each.checkpoint, every[0])
    ]
    return Listed(tuple(_candidates(every, resume)), tuple(passed))


@contextmanager
def never_passed_over() -> Iterator[None]:
    """`onFailure: Continue` is not to lose what a run has reached, because its place cannot be read just now."""
    try:
        yield
    except CheckpointError as error:
        error.continuable = False
        raise


def _candidates(checkpoints: list[Checkpoint], resume: Resume) -> Iterator[Candidate]:
    local = isinstance(resume.run.root, LocalSource)
    for each in checkpoints:
        own = local and each.layout == "preheat" and each.is_folder
        yield Candidate(each.name, each.modified, each.position, Path(resume.where, each.folder) if own else None)


def _newer(one: Checkpoint, best: Checkpoint) -> bool:
    """Whether one that cannot be taken would have been taken for its age: the others nobody misses."""
    if one.position and best.position:
        return one.position.order > best.position.order
    return one.modified > best.modified
