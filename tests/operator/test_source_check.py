"""The check of a source: which Job there is to be, what its end means, and which version pods get from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from preheat_operator import room, source_check
from preheat_operator.admission import Entry
from preheat_operator.api import Pipeline
from preheat_operator.events import announcements
from preheat_operator.injection import inject
from preheat_operator.loader_run import Failure
from preheat_operator.observation import PodReport, observe_check
from preheat_operator.settings import Settings
from preheat_operator.status import wanted_status

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
SETTINGS = Settings("preheat-system", "example.org/loader:1")
SOURCE = {"uri": "s3://models/a.ckpt", "version": "etag:1", "sizeBytes": 600, "format": "torch-zip (raw)", "tensors": 4,
          "parameters": 100, "selectedBytes": 400, "outputBytes": 500}  # fmt: skip
FOUND = {"outcome": "checked", "source": SOURCE}
MISSING = {"outcome": "failed", "reason": "NotFound", "message": "no such key", "remedy": "Check `key`"}


def pipeline(source: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    stage = source or {"s3": {"bucket": "models", "key": "a.ckpt", "secretRef": "models"}}
    metadata = {"name": "finetune", "namespace": "team-a", "uid": "p-1", "generation": 3}
    return {"metadata": metadata, "spec": {"stages": [stage, {"weightsOnly": {}}], **spec}}


def checked(resource: dict[str, Any], **check: str) -> dict[str, Any]:
    return {**resource, "status": {"observedGeneration": 3, "check": {"time": at(0), **check}}}


def at(seconds: float) -> str:
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def due(resource: dict[str, Any], seconds: float, *reports: PodReport) -> bool:
    return source_check.is_due(
        Pipeline.parse(resource), resource.get("status") or {}, reports, NOW + timedelta(seconds=seconds)
    )


def job(resource: dict[str, Any], **status: Any) -> dict[str, Any]:
    made = source_check.wanted_job(Pipeline.parse(resource), resource.get("status") or {}, SETTINGS)
    return {**made, "status": status}


def pod(name: str, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}-x", "labels": {"job-name": name}, "creationTimestamp": at(-9)},
        "spec": {"containers": [{"name": "preheat-loader"}]},
        "status": {"containerStatuses": [{"name": "preheat-loader", "restartCount": 0, "state": state}]},
    }


def ended(message: dict[str, Any], code: int = 0) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": json.dumps(message), "finishedAt": at(0)}}


def outcome(resource: dict[str, Any], state: dict[str, Any], **status: Any) -> source_check.Checked | None:
    made = job(resource, **status)
    name = made["metadata"]["name"]
    return source_check.outcome(name, [made], [pod(name, state), pod("another", ended(FOUND))])


def test_the_job_is_told_what_the_loader_is_told_and_may_do_nothing() -> None:
    made = job(pipeline(serviceAccountName="reader"))
    [owner] = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("CheckpointPipeline", "finetune", "p-1")
    spec = made["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "reader"
    assert spec["automountServiceAccountToken"] is False
    assert "volumes" not in spec
    [container] = spec["containers"]
    assert container["command"] == ["python", "-m", "preheat.source_check"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    environment = {each["name"]: each for each in container["env"]}
    assert json.loads(environment["PREHEAT_PIPELINE"]["value"])["spec"]["stages"][0]["s3"]["bucket"] == "models"
    assert environment["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "models"
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert "preheat.dev/pipeline" not in labels, "it would wait for a checkpoint itself"


def test_whoever_asks_asks_for_the_same_job_until_there_is_something_new_to_check() -> None:
    first = job(pipeline())["metadata"]["name"]
    assert job(pipeline(serviceAccountName="x"))["metadata"]["name"] == first
    assert job(checked(pipeline(), uri="u", version="v"))["metadata"]["name"] != first
    assert len(first) <= 63


def test_a_source_is_checked_once_for_each_spec() -> None:
    assert due(pipeline(), 0)
    assert not due(checked(pipeline(), uri="u", version="v"), 1e8)
    older = checked(pipeline(), uri="u", version="v")
    older["status"]["observedGeneration"] = 2
    assert due(older, 0)


def test_a_check_that_failed_is_made_again_after_a_while() -> None:
    failed = checked(pipeline(), reason="NotFound", message="no such key")
    assert not due(failed, source_check.AGAIN - 1)
    assert due(failed, source_check.AGAIN)


def test_with_refresh_it_is_looked_at_again_and_at_once_when_a_loader_finds_another_version() -> None:
    known = checked(pipeline(refreshSeconds=3600), uri="u", version="v")
    changed = Failure(at(10), "SourceChanged", "another version", "")
    loader = PodReport("a", "uid", at(0), "failed", failure=changed)
    assert not due(known, 3599)
    assert due(known, 3600)
    assert due(known, 11, loader)
    assert not due(checked(pipeline(), uri="u", version="v"), 11, loader), "pinned for good"


def test_a_clock_that_was_set_back_does_not_put_off_the_next_look() -> None:
    known = checked(pipeline(refreshSeconds=3600), uri="u", version="v")
    assert not due(known, -5), "clocks of a cluster differ a little"
    assert due(known, -86_400)


def test_what_lies_in_the_pods_own_files_is_not_checked() -> None:
    assert not source_check.is_possible(Pipeline.parse(pipeline({"local": {"path": "/preheat/a.ckpt"}})))
    assert source_check.is_possible(Pipeline.parse(pipeline()))


def test_the_end_of_the_check_is_what_its_container_said() -> None:
    found = outcome(pipeline(), ended(FOUND))
    assert found
    assert found.to_status({}) == {"time": at(0), "uri": SOURCE["uri"], "version": "etag:1", "outputBytes": 500}
    missing = outcome(pipeline(), ended(MISSING, 11))
    assert missing
    assert missing.to_status({})["reason"] == "NotFound"
    assert missing.to_status({"uri": "u", "version": "v"})["version"] == "v", "what was found before holds"
    assert outcome(pipeline(), {"running": {}}) is None
    assert source_check.outcome("gone", [], []) is None


@pytest.mark.parametrize("reason", ["CreateContainerConfigError", "ImagePullBackOff"])
def test_a_check_that_cannot_start_says_why(reason: str) -> None:
    stuck = outcome(pipeline(), {"waiting": {"reason": reason, "message": 'secret "models" not found'}})
    assert stuck
    assert stuck.to_status({})["reason"] == reason
    assert outcome(pipeline(), {"waiting": {"reason": "ErrImagePull", "message": "try again"}}) is None


def test_a_job_without_a_pod_says_what_kubernetes_says_of_it() -> None:
    made = job(
        pipeline(),
        conditions=[
            {
                "type": "Failed",
                "status": "True",
                "reason": "DeadlineExceeded",
                "message": "Job was active longer than specified deadline",
                "lastTransitionTime": at(300),
            }
        ],
    )
    found = source_check.outcome(made["metadata"]["name"], [made], [])
    assert found
    assert found.failure
    assert (found.failure.reason, found.time) == ("CheckNotRun", at(300))
    assert "longer than" in found.failure.message
    assert "Events" in found.failure.remedy


def test_another_version_is_noted_once_and_never_for_another_place() -> None:
    found = outcome(pipeline(), ended(FOUND))
    assert found
    before = {"uri": SOURCE["uri"], "version": "etag:0"}
    assert found.to_status(before)["previousVersion"] == "etag:0"
    assert "previousVersion" not in found.to_status(found.to_status(before))
    assert "previousVersion" not in found.to_status({**before, "uri": "s3://elsewhere"})
    missing = outcome(pipeline(), ended(MISSING, 11))
    assert missing
    assert "previousVersion" not in missing.to_status(before)


def test_how_long_a_check_took_counts_from_its_job() -> None:
    made = job(pipeline())
    name = made["metadata"]["name"]
    for begun, seconds in ((-7, 7), (5, None), (-1e6, None)):
        made["metadata"]["creationTimestamp"] = at(begun)
        found = source_check.outcome(name, [made], [pod(name, ended(FOUND))])
        assert found
        assert (found.seconds, found.result) == (seconds, "found")


def test_nothing_in_a_checks_pod_can_be_so_odd_that_it_raises() -> None:
    for odd in ({}, {"spec": None, "status": {"containerStatuses": 3}}, {"metadata": {"name": 7}, "status": []}):
        assert observe_check(odd).success is None


def status(resource: dict[str, Any], check: source_check.Checked | None = None, **more: Any) -> dict[str, Any]:
    return wanted_status(resource, [], NOW, None, check, **more)


def verdict(found: dict[str, Any], kind: str = "Ready") -> tuple[str, str, str]:
    return next((c["status"], c["reason"], c["message"]) for c in found["conditions"] if c["type"] == kind)


def test_the_status_says_what_was_found_before_any_pod_asks() -> None:
    resource = pipeline()
    checking = status(resource, checking=True)
    assert verdict(checking)[:2] == ("Unknown", "Checking")
    assert verdict(checking, "Reconciling")[:2] == ("True", "Checking")
    found = status({**resource, "status": checking}, outcome(resource, ended(FOUND)))
    sentence = "checkpoint s3://models/a.ckpt (torch-zip (raw), 4 tensors, 400 B) found; no pod has loaded it yet"
    assert verdict(found) == ("True", "Checked", sentence)
    assert verdict(found, "SourceResolved")[:2] == ("True", "Read")
    assert verdict(found, "Reconciling")[0] == "False"
    assert found["source"] == SOURCE
    assert status({**resource, "status": found}) == found, "remembered when the Job is gone"


def test_the_status_says_what_is_wrong_before_any_pod_asks() -> None:
    resource = pipeline()
    missing = status(resource, outcome(resource, ended(MISSING, 11)))
    assert verdict(missing) == ("False", "NotFound", "check of the source: no such key. Check `key`")
    assert verdict(missing, "SourceResolved")[:2] == ("False", "NotFound")
    found = status({**resource, "status": missing}, outcome(resource, ended(FOUND)))
    assert verdict(found)[:2] == ("True", "Checked")


def test_a_volume_that_is_too_small_is_in_the_status_and_goes_from_it() -> None:
    resource = pipeline(volume={"persistentVolumeClaim": {"claimName": "models"}})
    small, large = ([room.Room(size, "claim models holds little", "Give it more")] for size in (400, 1 << 30))
    found = status(resource, outcome(resource, ended(FOUND)), rooms=small)
    said = "a bundle takes 500 B and claim models holds little. Give it more"
    assert found["check"]["warnings"] == [said]
    assert verdict(found)[:2] == ("True", "Checked")
    assert verdict(found)[2].endswith(f"; warning: {said}")
    [event] = announcements({**resource, "status": found}, [], NOW)
    assert (event.kind, event.type, event.reason, event.message) == (
        "CheckpointPipeline", "Warning", "VolumeTooSmall", said
    )  # fmt: skip
    assert Entry({**resource, "status": found}).warnings == (said,)
    assert status({**resource, "status": found}, rooms=small) == found
    assert "warnings" not in status({**resource, "status": found}, rooms=large)["check"]


def test_pods_get_the_version_that_was_found() -> None:
    resource = pipeline()
    resource["status"] = status(resource, outcome(resource, ended(FOUND)))
    pin = source_check.pin_of(resource)
    assert pin == {"uri": SOURCE["uri"], "version": "etag:1", "outputBytes": 500}
    bare = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "train", "image": "i"}]}}
    made = inject(bare, Pipeline.parse(resource), SETTINGS, pin)
    [loader] = made["spec"]["initContainers"]
    document = json.loads(next(e["value"] for e in loader["env"] if e["name"] == "PREHEAT_PIPELINE"))
    assert document["pin"] == pin
    newer = {**resource, "metadata": {**resource["metadata"], "generation": 4}}
    assert source_check.pin_of(newer) is None, "found for another spec"
    assert inject(made, Pipeline.parse(resource), SETTINGS, None) == made, "a version is not changed afterwards"
