"""Who has died on which checkpoint, as Preheat's controller has seen it in the pods before: the loader is told.

It is all that is known of a run whose place takes no marks (`starts`), such as a bucket. The controller knows nothing
of the run's checkpoints, so whether a death still counts is decided here, as it is of a mark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preheat.errors import CheckpointConfigError
from preheat.resume.decision import Candidate, Start


@dataclass(frozen=True)
class Death:
    """A process that began from a checkpoint and died."""

    run: str
    checkpoint: str
    saved: float  # when the checkpoint was, by the clock of its place: one that was saved anew is another
    began: float  # when the process did, by its own clock


@dataclass(frozen=True)
class Deaths:
    """What a pod is told of those before it."""

    known: tuple[Death, ...] = ()
    forgotten: float = 0.0  # seconds since the epoch: who began until then does not count, whoever tells of it

    def of(self, run: str) -> Deaths:
        """Those in one run."""
        return replace(self, known=tuple(each for each in self.known if each.run == run))

    def and_marks(self, marks: Iterable[Start], candidates: Iterable[Candidate]) -> Iterator[Start]:
        """All that may speak against a checkpoint of the run: what is told, and the marks beside the run."""
        saved = {each.name: each.modified for each in candidates}
        told = (
            # A clock that is behind must not make a start precede the checkpoint that it began from.
            Start(f"{PREFIX}{number}", each.checkpoint, max(each.began, each.saved))
            for number, each in enumerate(self.known)
            if saved.get(each.checkpoint) == each.saved and each.began > self.forgotten
        )
        yield from told
        yield from (mark for mark in marks if mark.time > self.forgotten)

    def to_json(self) -> dict[str, Any]:
        """Short: by run and checkpoint, with two times for each death."""
        runs: dict[str, dict[str, list[list[float]]]] = {}
        for each in self.known:
            runs.setdefault(each.run, {}).setdefault(each.checkpoint, []).append([each.saved, each.began])
        return {**({"forgotten": self.forgotten} if self.forgotten else {}), "runs": runs}

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Deaths:
        """What `to_json` wrote; raises ValueError, KeyError, TypeError or AttributeError for anything else."""
        runs: Mapping[str, Mapping[str, Sequence[Sequence[float]]]] = document["runs"]
        known = (
            Death(str(run), str(name), float(saved), float(began))
            for run, checkpoints in runs.items()
            for name, deaths in checkpoints.items()
            for saved, began in deaths
        )
        return cls(tuple(known), float(document.get("forgotten", 0)))

    @classmethod
    def read(cls, text: str) -> Deaths:
        """What the operator has written into PREHEAT_DEATHS; raises CheckpointConfigError."""
        try:
            return cls.of_json(json.loads(text)) if text else NONE
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointConfigError(
                f"PREHEAT_DEATHS cannot be read: {error}", remedy="It is set by the operator"
            ) from error


PREFIX = "told-"  # of starts that left no mark
NONE = Deaths()
