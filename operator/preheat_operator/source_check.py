"""The check of a pipeline's source: a Job in its namespace that reads what a loader would read, but for the payload.

Pure: which Job there should be, what the check has found, and which version follows from it for every pod. The Job runs
as `spec.serviceAccountName`; it reads the pipeline's Secrets as a pod of the namespace does, the operator reads none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from preheat.errors import SourceChangedError
from preheat_operator.api import GROUP, KIND, VERSION, Pipeline
from preheat_operator.foreign import Object, printable
from preheat_operator.loader_container import USER, check_container
from preheat_operator.loader_run import Failure, Success
from preheat_operator.observation import PodReport, observe_check
from preheat_operator.settings import Settings

#: On the Job and its pod: the pipeline that is checked.
CHECK = "preheat.dev/check"
NOT_RUN = "CheckNotRun"
#: What a run that has no checkpoint yet has to resume from.
NOTHING = "nothing"
#: Seconds until a check that has not ended is given up, and until what is left of it is removed.
DEADLINE, LIFETIME = 300, 600
#: Seconds until one that failed is made again: somebody may have made the Secret, or the bucket.
AGAIN = 900
_KEPT = ("uri", "version", "outputBytes")
_PULLING = "ErrImagePull"  # the first time; ImagePullBackOff is for long
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_NOT_RUN_REMEDY = "See the Job's Events; to go without checks, install the chart with check.enabled=false"


@dataclass(frozen=True)
class Checked:
    """How a check ended."""

    time: str  # RFC 3339, UTC
    success: Success | None = None
    failure: Failure | None = None
    seconds: float | None = None  # since its Job was made

    def to_status(self, before: Object) -> dict[str, Any]:
        """What the status keeps of it; a version that was found `before` holds while later checks fail."""
        source = self.success.source if self.success else before
        kept = {"time": self.time, **{key: source[key] for key in _KEPT if key in source}}
        if self.success and self.success.resume:
            kept["resume"] = self.success.resume.get("checkpoint") or NOTHING
        if self.success and kept.get("uri") == before.get("uri") and kept.get("version") != before.get("version"):
            kept["previousVersion"] = before.get("version")
        if self.failure:
            told = {"reason": self.failure.reason, "message": self.failure.message, "remedy": self.failure.remedy}
            kept |= told
        return {key: value for key, value in kept.items() if value}

    @property
    def result(self) -> str:
        """One word for a metric."""
        if not self.failure:
            return "found"
        return "not_run" if self.failure.reason == NOT_RUN else "failed"


def is_possible(pipeline: Pipeline) -> bool:
    """Whether a Job could read the source: what lies in a pod's own file system it cannot."""
    return not pipeline.parsed.source.in_pod


def is_due(pipeline: Pipeline, status: Object, reports: Iterable[PodReport], now: datetime) -> bool:
    """Whether the source should be looked at (again); `status` is the pipeline's present one."""
    last = last_check(pipeline.generation, status)
    if not last:
        return True
    refresh = pipeline.spec.get("refreshSeconds")
    every = min(refresh or AGAIN, AGAIN) if last.get("reason") else refresh
    if not every:
        return False
    time = str(last["time"])
    changed = (each.failure for each in reports if each.failure and each.failure.reason == SourceChangedError.reason)
    news = refresh and any(failure.time > time for failure in changed)
    # A clock that was set back must not put the next look off for as long.
    return bool(news) or abs(now - _moment(time)) >= timedelta(seconds=every)


def last_check(generation: int, status: Object) -> Object:
    """What the status holds of a check of this generation; empty when there was none."""
    found = status.get("check") if status.get("observedGeneration") == generation else None
    return found if isinstance(found, Mapping) else {}


def check_said(check: Object) -> str:
    """Why the check that a status keeps has failed, and what to do, for a person."""
    text = f"check of the source: {check.get('message', '')}"
    return printable(f"{text}. {check['remedy']}" if check.get("remedy") else text)


def pin_of(resource: Object) -> dict[str, Any] | None:
    """URI and version that every pod of a pipeline gets, if a check of its present spec has found one.

    With the bytes of its bundle's tensors, if the check has told them.
    """
    status = resource.get("status")
    if not isinstance(status, Mapping):
        return None
    last = last_check(int(resource["metadata"].get("generation", 0)), status)
    if not last.get("uri") or not last.get("version"):
        return None
    size = last.get("outputBytes")
    return {"uri": str(last["uri"]), "version": str(last["version"]), **({"outputBytes": size} if size else {})}


def job_name(pipeline: Pipeline, status: Object) -> str:
    """The name of the check that is due: the same for whoever asks, another one for the next check."""
    last = last_check(pipeline.generation, status).get("time", "")
    return f"preheat-check-{sha256(f'{pipeline.uid}/{pipeline.generation}/{last}'.encode()).hexdigest()[:16]}"


def wanted_job(pipeline: Pipeline, status: Object, settings: Settings) -> dict[str, Any]:
    """The Job; deleting the pipeline deletes it."""
    labels = {CHECK: pipeline.name, "app.kubernetes.io/managed-by": "preheat"}
    owner = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "name": pipeline.name, "uid": pipeline.uid}
    account = pipeline.spec.get("serviceAccountName")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(pipeline, status),
            "namespace": pipeline.namespace,
            "labels": labels,
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": False}],
        },
        "spec": {
            "backoffLimit": 0,  # the check itself tries again what may pass
            "activeDeadlineSeconds": DEADLINE,
            "ttlSecondsAfterFinished": LIFETIME,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    **({"serviceAccountName": account} if account else {}),
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": USER,
                        "runAsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [check_container(pipeline, settings)],
                },
            },
        },
    }


def outcome(name: str, jobs: Sequence[Object], pods: Sequence[Object]) -> Checked | None:
    """How the check by the Job of this name ended; None while it has not."""
    job = next((job for job in jobs if job["metadata"]["name"] == name), None)
    if job is None:
        return None
    begun = _moment(str(job["metadata"].get("creationTimestamp") or ""))
    found = _found(name, job, pods)
    took = (_moment(found.time) - begun).total_seconds() if found else 0
    return replace(found, seconds=took) if found and 0 <= took <= LIFETIME else found


def _found(name: str, job: Object, pods: Sequence[Object]) -> Checked | None:
    for pod in pods:
        if (pod["metadata"].get("labels") or {}).get("job-name") == name and (found := _ended(pod)):
            return found
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Failed" and condition.get("status") == "True":
            time = _moment(str(condition.get("lastTransitionTime") or ""))
            return not_run(time, str(condition.get("message") or condition.get("reason")))
    return None


def not_run(now: datetime, why: str) -> Checked:
    """A check that could not be made, or that no node ran."""
    time = now.strftime(_FORMAT)
    return Checked(time, failure=Failure(time, NOT_RUN, printable(f"it did not run: {why}"), _NOT_RUN_REMEDY))


def _ended(pod: Object) -> Checked | None:
    report = observe_check(pod)
    if report.success:
        return Checked(report.success.time, success=report.success)
    if report.failure and report.failure.reason != _PULLING:
        return Checked(report.failure.time, failure=report.failure)
    return None


def _moment(time: str) -> datetime:
    try:
        return datetime.strptime(time, _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
