"""What was decided for a pod, as its processes and its status are told: a file beside the pod's bundle, and a message.

The file is there whenever the pipeline has `resume`. A process of the container reads it when it starts: one that
starts again in place looks for newer checkpoints by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preheat.errors import CheckpointConfigError, NotABundleError
from preheat.resume.deaths import NONE, Deaths
from preheat.resume.decision import PassedOver
from preheat.resume.settings import Resume, resume_of
from preheat.spelling import parameters_of

RESUMPTION = "resume.json"

_LONGEST = 1 << 20  # bytes; others may write to the volume
#: Of checkpoints that were passed over a message tells so many, in so many characters each.
_TOLD, _SAID = 5, 240


@dataclass(frozen=True)
class Taken:
    """The checkpoint that a training goes on from."""

    name: str
    modified: float
    in_place: bool = False  # it was verified where it is, and no bundle made of it

    def is_same(self, other: Taken | None) -> bool:
        """Whether the other is this very one, and not a later one of its name."""
        return other is not None and (self.name, self.modified) == (other.name, other.modified)


@dataclass(frozen=True)
class Resumption:
    """Which of a run's checkpoints was taken, and why others were not; without `taken` the stages run as ever."""

    pipeline: str
    resume: Resume
    taken: Taken | None
    passed: tuple[PassedOver, ...] = ()
    nothing: str = ""  # why the run has none at all
    stages: tuple[Mapping[str, Any], ...] = ()  # that run in the training process after a resumption, as spelled
    left_out: tuple[str, ...] = ()  # names of stages whose work is in the checkpoint
    finite: bool = False  # whether NaN or infinity among the weights is a reason to pass a checkpoint over
    continue_on_error: bool = False
    deaths: Deaths = NONE  # that speak against a checkpoint when a process decides again

    def line(self) -> str:
        """What was decided, in a sentence without its end."""
        where = self.resume.where
        if self.taken:
            said = f"resumes from {self.taken.name} in {where} ({self.resume.strategy})"
        elif self.passed:
            said = f"begins as the stages say: none of the checkpoints in {where} can be resumed from"
        else:
            said = f"begins as the stages say: {self.nothing[:_SAID] or f'there is nothing to resume from in {where}'}"
        passed = [f"passed over {each.name}: {each.why[:_SAID]}" for each in self.passed[:_TOLD]]
        again = [f"not done again: {', '.join(self.left_out)}"] if self.taken and self.left_out else []
        more = [f"and {len(self.passed) - _TOLD} more"] if len(self.passed) > _TOLD else []
        return "; ".join([said, *again, *passed, *more])

    def said(self) -> dict[str, Any]:
        """For messages and reports: as much as a status keeps."""
        return {
            "run": self.resume.where,
            "strategy": self.resume.strategy,
            "checkpoint": self.taken.name if self.taken else None,
            "passed": [{"checkpoint": each.name, "why": each.why[:_SAID]} for each in self.passed[:_TOLD]],
            **({"morePassed": len(self.passed) - _TOLD} if len(self.passed) > _TOLD else {}),
        }

    def documents(self) -> dict[str, str]:
        """What a pod's folder is told: text by file name."""
        return {RESUMPTION: self.to_json()}

    def to_json(self) -> str:
        """The file's document."""
        taken = vars(self.taken) if self.taken else None
        passed = [vars(each) for each in self.passed]
        resume, deaths = parameters_of(self.resume), self.deaths.to_json()
        return json.dumps({**vars(self), "resume": resume, "taken": taken, "passed": passed, "deaths": deaths})

    @classmethod
    def read(cls, folder: Path) -> Resumption | None:
        """What a pod's folder tells; None where its pipeline has no `resume`. Raises NotABundleError otherwise."""
        try:
            with open(folder / RESUMPTION, "rb") as file:
                return cls.of_json(file.read(_LONGEST))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CheckpointConfigError) as error:
            raise NotABundleError(
                f"{folder / RESUMPTION} cannot be read: {type(error).__name__}: {error}",
                remedy="Start the pod again, so that its loader writes it anew",
            ) from error

    @classmethod
    def of_json(cls, text: str | bytes) -> Resumption:
        """What `to_json` wrote; raises ValueError, KeyError, TypeError or CheckpointConfigError for anything else."""
        document = json.loads(text)
        resume, taken = resume_of(document["resume"]), document["taken"]
        if resume is None:
            raise ValueError("it says nothing of a run")
        return cls(
            pipeline=str(document["pipeline"]),
            resume=resume,
            taken=Taken(**taken) if taken else None,
            passed=tuple(PassedOver(**each) for each in document["passed"]),
            nothing=str(document["nothing"]),
            stages=tuple(document["stages"]),
            left_out=tuple(document["left_out"]),
            finite=bool(document["finite"]),
            continue_on_error=bool(document["continue_on_error"]),
            deaths=Deaths.of_json(document["deaths"]),
        )


def names_of(stages: Sequence[object]) -> tuple[str, ...]:
    """What stages are called in a pipeline."""
    from preheat.spelling import spell
    from preheat.stage import PipelineStage

    return tuple(next(iter(spell(stage))) for stage in stages if isinstance(stage, PipelineStage))
