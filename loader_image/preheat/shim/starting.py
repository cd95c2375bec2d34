"""What this process begins from: the bundle that its loader left, or a newer checkpoint that it can see itself.

A container that starts again in place runs no loader. Where the pipeline has `resume` and the run's folder is here,
the process therefore decides anew, as its loader did, once: later models of the same process get the same checkpoint.
In a process group the first rank decides for all. Whoever goes on from a checkpoint of the run leaves a mark, for those
who start later.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from preheat.blob import Patience
from preheat.bundle.data import CheckpointData, open_bundle, read_manifest
from preheat.checks import Checks
from preheat.errors import CheckpointError, NotABundleError
from preheat.pipeline import CheckpointPipeline
from preheat.ranks import Ranks
from preheat.resume.candidates import candidates, never_passed_over
from preheat.resume.decision import Candidate, counts, decide
from preheat.resume.marking import Mark, leave_mark
from preheat.resume.resumption import Resumption, Taken
from preheat.resume.starts import Starts
from preheat.shim.endings import Ending
from preheat.shim.environment import bundle_folder
from preheat.shim.reports.report import rank
from preheat.stage import CheckpointSource

log = logging.getLogger(__name__)

_begun: dict[Path, Beginning] = {}


@dataclass
class Beginning:
    """One checkpoint, and what is still to be done with it."""

    folder: Path  # of the loader's bundle
    resumption: Resumption | None = None
    source: CheckpointSource | None = None  # of the run's checkpoint, where it is read from there
    mark: Mark | None = None

    @property
    def resumes(self) -> bool:
        """Whether a checkpoint of the run itself was taken."""
        return self.resumption is not None and self.resumption.taken is not None

    def open(self) -> CheckpointData:
        """Its contents; raises a CheckpointError."""
        if self.source is None:
            data = open_bundle(self.folder)
            if data.manifest is None:
                raise NotABundleError(f"{data.blob.uri} has no manifest")
            return data
        from preheat.formats import read_index

        blob = self.source.open(Patience())
        try:  # it was checked before it was chosen
            return CheckpointData(blob, read_index(blob), lambda: Checks(crc32=False))
        except BaseException:
            blob.close()
            raise

    def pipeline(self) -> CheckpointPipeline:
        """What this process does with it."""
        told = self.resumption if self.source and self.resumption else read_manifest(self.folder)
        return CheckpointPipeline(told.stages, continue_on_error=told.continue_on_error)


def beginning(ranks: Ranks | None = None) -> Beginning:
    """That of this process; raises a CheckpointError where there is nothing that it could begin from."""
    folder = bundle_folder()
    if folder not in _begun:
        _begun[folder] = _decide(folder, ranks)
    return _begun[folder]


def refused(error: CheckpointError) -> None:
    """The checkpoint was refused: that is no death of its process, and the next older one would fare no better.

    Raises `error` where the run's own checkpoint was taken: to train from initial weights would lose what it has.
    """
    begun = _begun.get(Path(os.environ.get("PREHEAT_BUNDLE", "")))
    if begun and begun.mark:
        begun.mark.remove()
    if begun and begun.resumes:
        raise error


def _decide(folder: Path, ranks: Ranks | None) -> Beginning:
    told = Resumption.read(folder.parent)
    if told is None:
        return Beginning(folder)
    start, decided = _agreed(told, ranks)
    taken = decided.taken
    if taken is None:
        if told.taken:
            raise _nothing_left(decided)
        return Beginning(folder, decided)
    log.info("%s", decided.line())
    mark = _mark(decided, taken, start, ranks, folder)
    bundled = taken.is_same(told.taken) and not taken.in_place
    return Beginning(folder, decided, None if bundled else decided.resume.checkpoint(taken.name), mark)


def _agreed(told: Resumption, ranks: Ranks | None) -> tuple[str, Resumption]:
    """The start's id, the same for all ranks, and what the first of them has decided."""

    def look() -> str:
        return json.dumps({"start": uuid4().hex, "decided": _look(told).to_json()})

    said = json.loads(ranks.from_first("open", look) if ranks else look())
    # Nobody sees what is not on a volume of the pod: each has what its own loader brought, and they compare that.
    return said["start"], Resumption.of_json(said["decided"]) if told.resume.folder else told


def _look(told: Resumption) -> Resumption:
    """What is there now; what the loader found where this process cannot see it."""
    run = told.resume.folder
    if run is None or not run.is_dir():
        return told
    with never_passed_over():
        listed, marks = candidates(told.resume, Patience()), list(Starts(run).read())
        known = told.deaths.and_marks(marks, listed.candidates)
        decision = decide(listed.candidates, known, told.resume, lambda each: _check(each, told))
    Starts(run).forget(mark for mark in marks if not counts(mark, listed.candidates))
    return replace(told, taken=decision.used, passed=(*listed.passed, *decision.passed), nothing=listed.nothing)


def _check(candidate: Candidate, told: Resumption) -> Taken:
    """Raise for one that cannot be used, unless the loader has looked at it."""
    found = Taken(candidate.name, candidate.modified, in_place=True)
    if told.taken and found.is_same(told.taken):
        return told.taken
    from preheat.verbs.verification import verify_checkpoint

    verify_checkpoint(told.resume.checkpoint(candidate.name), finite=told.finite)
    return found


def _mark(decided: Resumption, taken: Taken, start: str, ranks: Ranks | None, folder: Path) -> Mark | None:
    """Leave a mark that goes when this process ends in order; without a group, the first rank's stands for all."""
    number = ranks.rank if ranks else rank()
    if number and not ranks:
        return None
    mark = leave_mark(decided, taken, start, number, folder.parent)
    if mark:
        Ending(mark.remove).watch()
    return mark


def _nothing_left(decided: Resumption) -> CheckpointError:
    error = CheckpointError(
        f"{decided.line()}; and this pod has not got the checkpoint that the stages begin with",
        remedy="Delete the pod: the loader of the next one brings it",
    )
    error.continuable = False
    return error
