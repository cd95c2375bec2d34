"""The status a pipeline should have: a pure function of the resource, what its pods report, and the clock.

`source` and `failures` describe `observedGeneration`; pods injected from an earlier generation are counted only, except
for `deaths`, which are about checkpoints of a run. What was once seen of a generation is kept when its pods are gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from preheat_operator.answering import Round
from preheat_operator.conditions import conditions
from preheat_operator.evidence import gather
from preheat_operator.foreign import Object
from preheat_operator.memory import status_of
from preheat_operator.observation import PodReport
from preheat_operator.progress import Loaders
from preheat_operator.room import Room
from preheat_operator.source_check import Checked
from preheat_operator.uploads import Uploads, uploads_of


def wanted_status(
    pipeline: Object,
    reports: Iterable[PodReport],
    now: datetime,
    problem: str | None = None,
    check: Checked | None = None,
    *,
    checking: bool = False,
    rooms: Iterable[Room] = (),
    loaders: Loaders | None = None,
    uploads: Uploads | None = None,
    fallen: Iterable[PodReport] = (),
) -> dict[str, Any]:
    """The whole status of a pipeline; `problem` is why its spec cannot be used, `now` is in UTC.

    `check` is how the newest check of the source ended, if that is news; `checking` says that one is on its way;
    `rooms` are what bounds the pipeline's volume, `loaders` what is known of those that run, and `uploads` what
    is known of those of its pods; `fallen` are pods that may be gone, whose training died.
    """
    metadata, before = pipeline["metadata"], status_of(pipeline)
    generation = int(metadata.get("generation", 1))
    pods = sorted(reports, key=lambda pod: (pod.created, pod.name))
    current = [pod for pod in pods if pod.follows(str(metadata.get("uid", "")), generation)]
    remembered = before if before.get("observedGeneration") == generation else {}
    evidence = replace(
        gather(current, generation, remembered).checked(check, rooms).with_deaths(pipeline, [*pods, *fallen], before),
        problem=problem,
        checking=checking,
        outdated=len(pods) - len(current),
        loaders=loaders or Loaders.of(pods, Round()),
        uploads=uploads or uploads_of(pipeline, pods, Round(), now),
    )
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": conditions(evidence, before, now),
        "pods": pod_counts(pods),
    }
    fields = {
        "source": evidence.source,
        "check": evidence.check,
        "progress": evidence.loaders.to_status(),
        "lastLoad": evidence.last_load,
        "resume": evidence.resume,
        "uploads": evidence.uploads.to_status() if evidence.uploads else {},
    }
    status |= {name: dict(value) for name, value in fields.items() if value}
    if evidence.failures:
        status["failures"] = [dict(failure) for failure in evidence.failures]
    if evidence.deaths:
        status["deaths"] = [vars(death) for death in evidence.deaths]
    return status


def pod_counts(pods: Iterable[PodReport]) -> dict[str, int]:
    """How many pods carry the label (matched) and what became of them; injected: all that were not missed."""
    counts = dict.fromkeys(("matched", "injected", "loading", "loaded", "continued", "failed", "missed"), 0)
    for pod in pods:
        counts["matched"] += 1
        counts["injected"] += pod.phase != "missed"
        counts[pod.phase] += 1
    return counts


def differs(wanted: Object, current: Object | None) -> bool:
    """Whether writing `wanted` would change anything; the order of conditions does not matter."""
    return _comparable(wanted) != _comparable(current or {})


def _comparable(status: Object) -> dict[str, Any]:
    conditions = sorted(status.get("conditions") or (), key=lambda c: str(c.get("type")))
    return {**status, "conditions": conditions}
