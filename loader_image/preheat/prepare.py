"""The loader's work: from a pipeline to a finished bundle on a volume. Knows no environment and no terminal."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preheat.amounts import count_of, parameters_text, size_text
from preheat.blob import Blob
from preheat.bundle.facts import PlannedFacts
from preheat.bundle.leftovers import journal_of
from preheat.bundle.manifest import (
    STATE,
    STATE_TENSORS,
    WEIGHTS,
    Left,
    Manifest,
    Pipeline,
    SourceFacts,
    Totals,
)
from preheat.bundle.origins import Origins, merged_facts, told_of
from preheat.bundle.store import Partial, Store, digest_of
from preheat.checks import Checks, Findings
from preheat.errors import SourceChangedError, StorageError, about
from preheat.formats import read_index
from preheat.formats.json_state import to_json
from preheat.plan import Plan, verify_of
from preheat.progress import LogProgress, Progress
from preheat.spec import PipelineSpec
from preheat.spelling import spell
from preheat.training_plan import TrainingPlan, checks_of_training, plan_all
from preheat.transfer.engine import Transferred, transfer

if TYPE_CHECKING:
    from preheat.resume.resumption import Resumption

log = logging.getLogger(__name__)

#: Warnings that a message holds, and characters of each: Kubernetes keeps 4096 bytes. The manifest has them all.
_TOLD, _SAID = 4, 300


@dataclass(frozen=True)
class Pin:
    """The version that all pods of a pipeline are to get of one source."""

    uri: str
    version: str

    @classmethod
    def of(cls, document: Any) -> Pin | None:
        """The pin that the operator has written, if any."""
        return cls(str(document["uri"]), str(document["version"])) if document else None

    def check(self, blob: Blob) -> None:
        """Raise SourceChangedError for another version; a blob of another source, in a `fallback`, is not pinned."""
        if blob.uri == self.uri and blob.version != self.version:
            raise SourceChangedError(
                f"{blob.uri} has version {blob.version}; when the pipeline was checked it had {self.version}",
                remedy="To take the new one, change the pipeline, or let it be checked again with refreshSeconds",
            )


@dataclass(frozen=True)
class Outcome:
    """What came of a run: the bundle, and whether it was there before."""

    folder: Path
    manifest: Manifest
    reused: bool
    seconds: float
    fetched_bytes: int = 0
    resumption: Resumption | None = None  # what was decided where the pipeline has `resume`

    def to_json(self) -> dict[str, Any]:
        """The loader's message of success."""
        source, totals = self.manifest.source, self.manifest.totals
        warned = [warning[:_SAID] for warning in self.manifest.warnings[:_TOLD]]
        return {
            "outcome": "reused" if self.reused else "loaded",
            "digest": self.manifest.digest,
            "source": {
                "uri": source.uri,
                "version": source.version,
                "sizeBytes": source.size_bytes,
                "format": source.format,
                "tensors": totals.tensors,
                "parameters": totals.parameters,
                "selectedBytes": totals.selected_bytes,
                "outputBytes": sum(self.manifest.files.values()),
                **told_of(source.merged),
            },
            "fetchedBytes": self.fetched_bytes,
            "seconds": round(self.seconds, 3),
            **({"warnings": warned} if warned else {}),
            **({"resume": self.resumption.said()} if self.resumption else {}),
        }


def prepare(
    spec: PipelineSpec,
    store: Store,
    owner: str,
    pipeline: Pipeline | None = None,
    progress: Progress | None = None,
    pin: Pin | None = None,
) -> Outcome:
    """Make the bundle of `spec`, or find it; raises a CheckpointError, and then no bundle is left."""
    began, progress = time.monotonic(), progress or LogProgress(log)
    log.info("reading %s", spec.source.uri)
    source = spec.source.at(pin.uri, pin.version) if pin else spec.source
    blob = source.open(spec.patience)
    try:
        if pin:
            pin.check(blob)
        log.info("found %s, version %s", size_text(blob.size), blob.version)
        digest = digest_of(blob.uri, blob.version, spec)
        if not store.find(digest):
            with store.make(digest, owner, progress.wait) as partial:
                if partial:
                    making = _Making(spec, blob, digest, pipeline or Pipeline(), began)
                    with about(blob.uri):
                        return making.fill(partial, progress)
        return _found(store, digest, blob, began)
    finally:
        blob.close()


def reuse(spec: PipelineSpec, store: Store, pod: str) -> Outcome | None:
    """The bundle that the pod was given before, without a request; None when it has none of this very pipeline."""
    began = time.monotonic()
    found = store.attached(pod)
    if not found or digest_of(found[1].source.uri, found[1].source.version, spec) != found[1].digest:
        return None
    return Outcome(*found, reused=True, seconds=time.monotonic() - began)


def _found(store: Store, digest: str, blob: Blob, began: float) -> Outcome:
    found = store.use(digest)
    if not found:
        raise StorageError(f"bundle {digest} was removed while it was looked at", remedy="Run it again")
    return Outcome(*found, reused=True, seconds=time.monotonic() - began, fetched_bytes=blob.fetched)


@dataclass(frozen=True)
class _Making:
    """One bundle being made."""

    spec: PipelineSpec
    blob: Blob
    digest: str
    pipeline: Pipeline
    began: float

    def fill(self, partial: Partial, progress: Progress) -> Outcome:
        verify = verify_of(self.spec)
        findings = Findings(verify.warn_only)
        checks = verify.pinned(self.blob, self.spec.source, self.spec.patience, findings)
        plan, training = plan_all(read_index(self.blob), self.spec, self.blob, findings)
        _say(plan)
        _say_training(training)
        partial.make_room(plan.output_bytes + (training.output_bytes if training else 0))
        planned = time.monotonic()
        of_training = _passing(training.plan) if training and training.plan else 0
        progress.start((self.blob.size if checks.whole else _passing(plan)) + of_training)
        try:
            taking = _Taking(self.blob, progress, findings)
            done = taking.run(plan, partial.weights, checks)
            files, records = {WEIGHTS: plan.output_bytes}, done.records
            if training:
                files[STATE] = partial.write_state(training.written())
            if training and training.plan:
                files[STATE_TENSORS] = training.output_bytes
                records += taking.run(training.plan, partial.state_tensors, checks_of_training(checks)).records
        finally:
            progress.finish()
        transferred = time.monotonic()
        log.info("checked: %s", ", ".join(_checked(checks, records, findings)) or "sizes only")
        seconds = {"plan": planned - self.began, "transfer": transferred - planned, "total": transferred - self.began}
        manifest = replace(self._manifest(plan, done, checks, seconds), files=files, warnings=findings.warnings)
        folder = partial.publish(manifest)
        return Outcome(folder, manifest, False, time.monotonic() - self.began, self.blob.fetched)

    def _manifest(self, plan: Plan, done: Transferred, checks: Checks, seconds: dict[str, float]) -> Manifest:
        index = plan.index
        facts = PlannedFacts(plan, done.checksums)
        return Manifest(
            digest=self.digest,
            pipeline=self.pipeline,
            source=SourceFacts(
                *(self.blob.uri, self.blob.version, self.blob.size, index.format, index.layout),
                average=index.average,
                merged=merged_facts(index),
            ),
            files={},
            tensors=facts,
            aliases=dict(plan.aliases),
            origins=Origins(index),
            totals=Totals(len(facts), plan.parameters, plan.selected_bytes, self.blob.fetched),
            left=Left(
                *(plan.left_tensors, plan.left_bytes, tuple(index.opaque)),
                *(plan.excluded_tensors, plan.excluded_bytes),
                {key: vars(amount).copy() for key, amount in plan.left.items()},
            ),
            state=to_json(index.state),
            checks=checks,
            stages=tuple(spell(stage) for stage in self.spec.remaining),
            continue_on_error=self.spec.continue_on_error,
            seconds={name: round(value, 3) for name, value in seconds.items()},
        )


@dataclass(frozen=True)
class _Taking:
    """Transfers from one blob into the files of one bundle."""

    blob: Blob
    progress: Progress
    findings: Findings

    def run(self, plan: Plan, path: Path, checks: Checks) -> Transferred:
        return transfer(plan, self.blob, path, checks, self.progress.advance, self.findings, journal_of(path))


def _passing(plan: Plan) -> int:
    return sum(move.tensor.size for move in plan.moves)


def _say_training(training: TrainingPlan | None) -> None:
    if not training:
        return
    log.info("with %d tensors of training state, %s", training.tensors, size_text(training.selected_bytes))
    if training.opaque:
        said = [f"{path} ({name})" for path, name in list(training.opaque.items())[:4]]
        more = f" and {len(training.opaque) - len(said)} more" if len(training.opaque) > len(said) else ""
        log.warning("kept by name alone, their classes are never made: %s%s", ", ".join(said), more)


def _say(plan: Plan) -> None:
    index = plan.index
    log.info(
        "format %s (%s): taking %d tensors, %s, %s",
        index.format, index.layout, len(index.tensors) - len(plan.aliases), parameters_text(plan.parameters),
        size_text(plan.selected_bytes),
    )  # fmt: skip
    for each in merged_facts(index):
        log.info("of these %d from %s, version %s", each.tensors, each.uri, each.version)
    if index.average:
        log.info("weights as ema asks: %s", index.average)
    if plan.left_tensors:
        log.info(
            "leaving out %s of training state, %s", count_of(plan.left_tensors, "tensor"), size_text(plan.left_bytes)
        )
    if plan.excluded_tensors:
        log.info("excluding %s, %s", count_of(plan.excluded_tensors, "tensor"), size_text(plan.excluded_bytes))
    if plan.aliases:
        log.info("%d tied names share the bytes of others", len(plan.aliases))
    if index.opaque:
        log.info("not interpreted, and never executed: %s", ", ".join(index.opaque[:8]))


def _checked(checks: Checks, records: int, findings: Findings) -> list[str]:
    said = [f"{name} of the whole object" for name in checks.of_all]
    if checks.crc32 and records:
        said.append(f"CRC-32 of {records} records")
    if checks.finite:
        said.append("finite values" if findings.any_of("finite") else "every value is finite")
    return [*said, f"{len(findings.warnings)} warnings"] if findings.warnings else said
