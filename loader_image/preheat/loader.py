"""The init container: `python -m preheat.loader` prepares the pod's bundle and reports through exit code and message.

Everything it needs is in its environment; it asks no API. Run again in the same pod it finds its work done.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import TYPE_CHECKING, Any, TypeVar

from preheat.amounts import bytes_of, count_of, seconds_of, size_text
from preheat.beacon import beacon, port_in
from preheat.bundle.absence import Absence
from preheat.bundle.eviction import Policy
from preheat.bundle.manifest import Pipeline
from preheat.bundle.store import Store
from preheat.container import deadline, run
from preheat.errors import CheckpointConfigError, CheckpointError, StorageError
from preheat.prepare import Outcome, Pin, prepare, reuse
from preheat.progress import LogProgress, Progress
from preheat.spec import CONTINUE, PipelineSpec, parse
from preheat.termination_message import message_path

if TYPE_CHECKING:
    from preheat.resume.loading import Resuming
    from preheat.resume.settings import Resume

SHIMS = ("auto", "manual", "off")
ATTEMPTS = 3  # to attach a bundle that others remove

log = logging.getLogger("preheat.loader")

Amount = TypeVar("Amount", int, float)


@dataclass(frozen=True)
class Settings:
    """What the operator injects."""

    spec: PipelineSpec
    pipeline: Pipeline
    volume: Path
    pod: str
    shim: Path | None  # folder to lay beside the bundle
    message: Path
    policy: Policy | None = None  # what may stay on the volume; None: everything
    deadline: float | None = None  # seconds for the whole run
    pin: Pin | None = None  # what the operator's check has found
    progress_port: int | None = None  # where the operator asks how far it is; None: it does not
    deaths: str = ""  # what the operator has seen of pods before; of use where the pipeline has `resume`

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """The settings of an environment; raises CheckpointConfigError naming the variable that is wrong."""
        document = _pipeline_document(environment)
        mode = environment.get("PREHEAT_SHIM", "auto")
        if mode not in SHIMS:
            raise CheckpointConfigError(f"PREHEAT_SHIM is {mode!r:.40}", remedy=f"Use one of {', '.join(SHIMS)}")
        return cls(
            spec=parse(document.get("spec") or {}),
            pipeline=Pipeline(
                str(document.get("name", "")), str(document.get("namespace", "")), int(document.get("generation") or 0)
            ),
            volume=Path(environment.get("PREHEAT_VOLUME", "/preheat")),
            pod=_required(environment, "PREHEAT_POD_UID"),
            shim=None if mode == "off" else Path(environment.get("PREHEAT_SHIM_FOLDER", "/shim")),
            message=message_path(environment),
            policy=_policy(environment),
            deadline=_amount(environment, "PREHEAT_DEADLINE", seconds_of),
            pin=Pin.of(document.get("pin")),
            progress_port=port_in(environment, "PREHEAT_PROGRESS_PORT"),
            deaths=environment.get("PREHEAT_DEATHS", ""),
        )


def load(settings: Settings, progress: Progress | None = None) -> Outcome:
    """Give the pod its bundle; raises a CheckpointError, and then no bundle is left."""
    store = Store(settings.volume, settings.policy)
    for _ in range(ATTEMPTS):
        outcome = _provide(settings, store, progress)
        # Every time: of a shim that a crash of the machine has emptied nobody would hear, and it runs in the pod.
        if _attach(settings, store, outcome):
            if not outcome.reused:
                store.make_room()  # others may have been made at the same time
            return outcome
        log.info("the bundle was removed before the pod had it; making it again")
    raise StorageError(
        "the bundle was removed again and again before the pod had it", remedy="See who removes bundles by force"
    )


def _provide(settings: Settings, store: Store, progress: Progress | None) -> Outcome:
    """The bundle of the run's newest good checkpoint, or that of the stages."""
    if settings.spec.resume is None:
        return _from_stages(settings, store, progress)
    outcome, resumption = _resuming(settings, store, settings.spec.resume, progress).decide()
    log.info("%s", resumption.line())
    return replace(outcome or _from_stages(settings, store, progress), resumption=resumption)


def _from_stages(settings: Settings, store: Store, progress: Progress | None) -> Outcome:
    found = reuse(settings.spec, store, settings.pod)
    return found or prepare(settings.spec, store, settings.pod, settings.pipeline, progress, settings.pin)


def _attach(settings: Settings, store: Store, outcome: Outcome) -> Path | None:
    documents = outcome.resumption.documents() if outcome.resumption else {}
    if outcome.folder.parent == store.bundles:
        return store.attach(settings.pod, outcome.manifest.digest, settings.shim, documents)
    return store.attach_elsewhere(settings.pod, outcome.folder, settings.shim, documents)


def _resuming(settings: Settings, store: Store, resume: Resume, progress: Progress | None = None) -> Resuming:
    from preheat.resume.deaths import Deaths  # of which most pipelines have no need
    from preheat.resume.loading import Resuming

    deaths = Deaths.read(settings.deaths)
    return Resuming(settings.spec, resume, store, settings.pod, settings.pipeline, progress, deaths)


def load_or_go_on(settings: Settings) -> Outcome | Absence:
    """Give the pod its bundle, or where `onFailure: Continue` passes over a failure, the reason why it has none.

    Raises a CheckpointError for every other failure, and for one that cannot be told to the training.
    """
    progress = LogProgress(log)
    try:
        with beacon(settings.progress_port, progress.to_json), deadline(settings.deadline):
            return load(settings, progress)
    except CheckpointError as error:
        if settings.spec.on_failure != CONTINUE or not error.continuable:
            raise
        absence = Absence(settings.pipeline.name, error)
    store, resume = Store(settings.volume), settings.spec.resume
    try:
        # A process that starts again in place may find checkpoints that it has saved meanwhile.
        told = _resuming(settings, store, resume).resumption().documents() if resume else {}
        store.attach_absence(settings.pod, absence, settings.shim, told)
    except StorageError as failure:
        said = (
            f"{absence.error.args[0]}; to go on without it, the training would have to be told, and {failure.args[0]}"
        )
        raise type(absence.error)(said, remedy=absence.error.remedy) from failure
    log.error("%s: %s", absence.error.reason, absence.error)
    log.error("NO CHECKPOINT: the training goes on from its initial weights, as onFailure: Continue asks")
    return absence


def main() -> int:
    """Load once and return the exit code."""
    return run(_work)


def _work() -> Outcome | Absence:
    done = load_or_go_on(Settings.read(os.environ))
    if isinstance(done, Outcome):
        _say(done)
    return done


def _say(outcome: Outcome) -> None:
    totals = outcome.manifest.totals
    what = f"{count_of(totals.tensors, 'tensor')}, {size_text(totals.selected_bytes)}"
    if outcome.reused:
        for warning in outcome.manifest.warnings:
            log.warning("warning, from when the bundle was made: %s", warning)
        log.info("done in %.2f s: the bundle was there already, %s", outcome.seconds, what)
    else:
        fetched, peak = size_text(outcome.fetched_bytes), getrusage(RUSAGE_SELF).ru_maxrss // 1024
        log.info("done in %.2f s: %s, of %s read; peak memory %d MiB", outcome.seconds, what, fetched, peak)


def _pipeline_document(environment: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        document = json.loads(_required(environment, "PREHEAT_PIPELINE"))
    except ValueError:
        raise CheckpointConfigError("PREHEAT_PIPELINE is not JSON", remedy="It is set by the operator") from None
    if not isinstance(document, dict):
        raise CheckpointConfigError("PREHEAT_PIPELINE is not a JSON object", remedy="It is set by the operator")
    return document


def _policy(environment: Mapping[str, str]) -> Policy | None:
    limit = _amount(environment, "PREHEAT_CACHE_LIMIT", bytes_of)
    lifetime = _amount(environment, "PREHEAT_POD_LIFETIME", seconds_of)
    return None if limit is None and lifetime is None else Policy(limit, pod_lifetime=lifetime)


def _amount(environment: Mapping[str, str], name: str, read: Callable[[str], Amount]) -> Amount | None:
    try:
        return read(environment[name]) if environment.get(name) else None
    except CheckpointConfigError as error:
        raise CheckpointConfigError(f"{name}: {error.args[0]}", remedy=error.remedy) from error


def _required(environment: Mapping[str, str], name: str) -> str:
    if value := environment.get(name):
        return value
    raise CheckpointConfigError(f"{name} is not set", remedy="It is set by the operator")


if __name__ == "__main__":
    sys.exit(main())
