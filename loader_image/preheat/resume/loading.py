"""The loader's part of `resume`: the best checkpoint of the run that can be used becomes the pod's bundle.

One that Preheat saved on a volume of the pod is checked where it is and used there; every other one is fetched, checked
and converted as the checkpoint of a source is.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from preheat.bundle.data import read_manifest
from preheat.bundle.manifest import Pipeline, SourceFacts
from preheat.bundle.store import Store
from preheat.prepare import Outcome, prepare
from preheat.progress import Progress
from preheat.resume.after import finite, left_out, resuming
from preheat.resume.candidates import candidates, never_passed_over
from preheat.resume.deaths import NONE, Deaths
from preheat.resume.decision import Candidate, PassedOver, counts, decide
from preheat.resume.resumption import Resumption, Taken, names_of
from preheat.resume.settings import Resume
from preheat.resume.starts import Starts, on_volume
from preheat.sources.local import LocalSource
from preheat.spec import PipelineSpec
from preheat.spelling import spell

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resuming:
    """What a bundle is made with."""

    spec: PipelineSpec
    resume: Resume
    store: Store
    owner: str
    pipeline: Pipeline
    progress: Progress | None = None
    deaths: Deaths = NONE

    def decide(self) -> tuple[Outcome | None, Resumption]:
        """The bundle of the checkpoint that was taken, None where the stages begin anew; and what was decided.

        Raises a CheckpointError where the run cannot be looked at: to begin anew would lose what it has.
        """
        with never_passed_over():
            listed = candidates(self.resume, self.spec.patience)
            folder, elsewhere = self.resume.folder, on_volume(self.store.root, self.resume)
            beside, kept = list(Starts(folder).read()) if folder else [], list(elsewhere.read())
            starts = self.deaths.of(self.resume.where).and_marks([*beside, *kept], listed.candidates)
            decision = decide(listed.candidates, starts, self.resume, self._use)
        elsewhere.forget(mark for mark in kept if not counts(mark, listed.candidates))
        found = decision.taken
        taken = Taken(found.name, found.modified, in_place=found.folder is not None) if found else None
        told = self.resumption(taken, (*listed.passed, *decision.passed))
        return decision.used, replace(told, nothing=listed.nothing)

    def resumption(self, taken: Taken | None = None, passed: tuple[PassedOver, ...] = ()) -> Resumption:
        """What the pod's processes are told."""
        after = resuming(self.spec, self.resume, self.resume.from_)
        return Resumption(
            pipeline=self.pipeline.name,
            resume=self.resume,
            taken=taken,
            passed=passed,
            stages=tuple(spell(stage) for stage in after.remaining),
            left_out=names_of(left_out(self.spec)),
            finite=finite(self.spec),
            continue_on_error=self.spec.continue_on_error,
            deaths=self.deaths.of(self.resume.where),
        )

    def _use(self, candidate: Candidate) -> Outcome:
        log.info("the run in %s has %s", self.resume.where, candidate.name)
        if candidate.folder:
            return self._in_place(candidate.folder)
        spec = resuming(self.spec, self.resume, self.resume.checkpoint(candidate.name))
        return prepare(spec, self.store, self.owner, self.pipeline, self.progress)

    def _in_place(self, folder: Path) -> Outcome:
        from preheat.verbs.forecast import plan_pipeline
        from preheat.verbs.verification import verify_checkpoint

        began, spec = time.monotonic(), resuming(self.spec, self.resume, LocalSource(str(folder)))
        plan = plan_pipeline(spec)  # raises for one that lacks what the strategy takes
        verified = verify_checkpoint(spec.source, progress=self.progress, finite=plan.checks.finite)
        values = ", every value is finite" if plan.checks.finite else ""
        log.info("checked where it is: CRC-32 of %d records%s", verified.records, values)
        source = SourceFacts(plan.uri, plan.version, plan.size_bytes, plan.format, plan.layout)
        manifest = replace(read_manifest(folder), source=source)
        return Outcome(folder, manifest, True, time.monotonic() - began, verified.fetched_bytes)
