"""What the status says of uploads: counts, the condition, Events, and above all what was not sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preheat_operator import metrics
from preheat_operator.announcement import Announcement
from preheat_operator.answering import Round
from preheat_operator.counting import Counting
from preheat_operator.events import announcements
from preheat_operator.observation import PodReport, observe
from preheat_operator.status import differs, wanted_status
from preheat_operator.status_model import Status
from preheat_operator.upload_account import Account
from preheat_operator.upload_observation import Upload, observe_upload
from preheat_operator.uploads import Uploads, askable_uploads, uploads_of

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
PIPELINE = {
    "metadata": {"name": "saving", "namespace": "team-a", "uid": "p-1", "generation": 1},
    "spec": {"stages": [], "upload": {"path": "/output", "to": {"s3": {"bucket": "b", "key": "k/"}}}},
}
RUNNING: dict[str, Any] = {"running": {}}
CRASHED = {"waiting": {"reason": "CrashLoopBackOff"}}
SENT = {"outcome": "uploaded", "uploaded": 12, "files": 36, "bytes": 8_000, "present": 0, "failures": 0,
        "target": "s3://b/k/", "last": "net_cp=E12", "lastTime": "2026-05-04T11:59:40Z", "waiting": []}  # fmt: skip
SENDING = {**SENT, "outcome": "uploading", "waiting": ["net_cp=E13", "net_cp=latest.json"]}
DENIED = {
    "outcome": "failed",
    "reason": "AccessDenied",
    "message": "s3://b/k/: the service answered 403",
    "remedy": "Allow s3:PutObject",
    **{key: value for key, value in SENDING.items() if key != "outcome"},
    "failures": 3,
}


def ended(code: int, told: Any = None, reason: str = "", at: str = "11:30:00") -> dict[str, Any]:
    message = told if isinstance(told, str) else json.dumps(told) if told else ""
    return {"terminated": {"exitCode": code, "message": message, "reason": reason, "finishedAt": f"2026-05-04T{at}Z"}}


def pod(
    name: str = "a",
    state: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
    *,
    phase: str = "Running",
    restarts: int = 0,
    volume: dict[str, Any] | None = None,
    created: str = "10:00:00",
) -> dict[str, Any]:
    env = [{"name": "PREHEAT_UPLOADS_PORT", "value": "18739"}]
    upload = {"name": "preheat-upload", "env": env, "volumeMounts": [{"name": "output", "mountPath": "/output"}]}
    loaded = {"name": "preheat-loader", "state": ended(0, {"outcome": "loaded"}, at="10:00:09")}
    told = {"name": "preheat-upload", "restartCount": restarts, "state": state or {}, "lastState": last or {}}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}-{created}", "creationTimestamp": f"2026-05-04T{created}Z"},
        "spec": {
            "initContainers": [{"name": "preheat-loader"}, upload],
            "containers": [{"name": "train"}],
            "volumes": [{"name": "output", **(volume or {"emptyDir": {}})}],
        },
        "status": {
            "phase": phase,
            "podIP": "10.1.0.7",
            "hostIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "lastTransitionTime": "2026-05-04T11:31:00Z"}],
            "initContainerStatuses": [told, loaded],
        },
    }


def known(*pods: dict[str, Any], before: Any = None, now: datetime = NOW, **answers: Any) -> Uploads:
    reports = [observe(each) for each in pods]
    told = {next(p.uid for p in reports if p.name == name): Account.of(each) for name, each in answers.items()}
    found = uploads_of(
        {**PIPELINE, "status": before or {}}, reports, Round("2026-05-04T12:00:00Z", told), now  # type: ignore[arg-type]
    )  # fmt: skip
    assert found is not None
    return found


def wanted(*pods: dict[str, Any], before: Any = None, now: datetime = NOW, **answers: Any) -> dict[str, Any]:
    uploads = known(*pods, before=before, now=now, **answers)
    pipeline = {**PIPELINE, "status": before or {}}
    status = wanted_status(pipeline, [observe(each) for each in pods], now, uploads=uploads)
    Status.model_validate(status)
    return status


def verdict(status: dict[str, Any], kind: str = "Uploaded") -> tuple[str, str, str]:
    [found] = [each for each in status["conditions"] if each["type"] == kind]
    return found["status"], found["reason"], found["message"]


def told(status: dict[str, Any], *pods: dict[str, Any]) -> list[Announcement]:
    reports = [observe(each) for each in pods]
    return [
        e
        for e in announcements({**PIPELINE, "status": status}, reports, NOW)
        if "pload" in e.reason or "sent" in e.reason
    ]


def test_a_running_upload_that_has_nothing_left_is_uploaded() -> None:
    status = wanted(pod(state=RUNNING), a=SENT)
    assert verdict(status) == (
        "True", "Uploaded", "all that is finished is there: 12 sent by 1 pod, the last net_cp=E12",
    )  # fmt: skip
    assert status["uploads"] == {
        "summary": "12 sent", "time": "2026-05-04T12:00:00Z", "pods": 1, "uploaded": 12, "bytes": 8000, "waiting": 0,
        "failures": 0, "last": {"pod": "a", "name": "net_cp=E12", "time": "2026-05-04T11:59:40Z"},
        "senders": [{
            "pod": "a", "created": "2026-05-04T10:00:00Z", "state": "current", "uploaded": 12, "bytes": 8000,
            "waiting": 0, "failures": 0, "restarts": 0, "last": "net_cp=E12",
        }],
    }  # fmt: skip
    assert not differs(wanted(pod(state=RUNNING), before=status, a=SENT), status)
    assert told(status, pod(state=RUNNING)) == []


def test_without_uploads_there_is_no_word_of_them() -> None:
    plain = {**PIPELINE, "spec": {"stages": []}}
    status = wanted_status(plain, [], NOW)
    assert "uploads" not in status
    assert "Uploaded" not in [each["type"] for each in status["conditions"]]
    assert verdict(wanted()) == ("Unknown", "Idle", "no pod uploads")


@pytest.mark.parametrize(
    ("answer", "reason", "message"),
    [
        (SENDING, "Sending", "2 to be sent by 1 pod"),
        (None, "NotAsked", "1 pod cannot be asked: kubectl logs POD -c preheat-upload"),
    ],
)
def test_what_is_not_known_to_be_there_is_not_called_uploaded(answer: Any, reason: str, message: str) -> None:
    status = wanted(pod(state=RUNNING), **({"a": answer} if answer else {}))
    assert verdict(status) == ("Unknown", reason, message)


def test_an_upload_that_fails_is_named_with_what_to_do() -> None:
    pods = pod(state=RUNNING), pod("b", RUNNING)
    status = wanted(*pods, a=DENIED, b=DENIED)
    said = "pod a: AccessDenied: s3://b/k/: the service answered 403. Allow s3:PutObject; so do 1 more"
    assert verdict(status) == ("False", "UploadFailing", said)
    assert status["uploads"]["summary"] == "24 sent, 4 waiting, failing"
    assert status["uploads"]["senders"][0]["reason"] == "AccessDenied"
    events = told(status, *pods)
    assert [(e.kind, e.type, e.reason) for e in events] == [
        ("Pod", "Warning", "UploadFailing"), ("CheckpointPipeline", "Warning", "UploadFailing"),
    ] * 2  # fmt: skip
    again = wanted(*pods, a={**DENIED, "failures": 9}, b=DENIED)
    assert [e.event_name for e in told(again, *pods)] == [e.event_name for e in events], "it still fails"


@pytest.mark.parametrize(
    ("state", "last", "reason", "part"),
    [
        (CRASHED, ended(137, SENDING, "OOMKilled"), "OOMKilled", "upload.resources"),
        (CRASHED, ended(2, DENIED), "AccessDenied", "Allow s3:PutObject"),
        (ended(137, SENDING), None, "Killed", "exit code 137"),
        ({"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s" not found'}}, None,
         "CreateContainerConfigError", "Check the Secrets"),
    ],
)  # fmt: skip
def test_a_container_that_cannot_run_is_failing(state: Any, last: Any, reason: str, part: str) -> None:
    status = wanted(pod(state=state, last=last, restarts=2))
    assert verdict(status)[:2] == ("False", "UploadFailing")
    assert f"pod a: {reason}: " in verdict(status)[2]
    assert part in verdict(status)[2]
    assert status["uploads"]["senders"][0]["restarts"] == 2


def test_a_pod_that_ended_with_all_sent_stays_uploaded_when_it_is_gone() -> None:
    status = wanted(pod(state=ended(0, SENT), phase="Succeeded"))
    assert verdict(status)[:2] == ("True", "Uploaded")
    assert status["uploads"]["senders"][0]["state"] == "done"
    after = wanted(before=status)
    assert verdict(after)[:2] == ("True", "Uploaded")
    assert after["uploads"]["last"]["name"] == "net_cp=E12"
    assert not differs(wanted(before=after), after)


LOST, KEPT = "is lost with the pod's emptyDir", "the next pod of the pipeline that mounts it sends it"
CLAIM = {"persistentVolumeClaim": {"claimName": "runs"}}


@pytest.mark.parametrize(
    ("end", "volume", "what", "remedy"),
    [
        (ended(137, SENDING), None, "and left 2 checkpoints or files (net_cp=E13, net_cp=latest.json): Killed", LOST),
        (ended(137, SENDING), CLAIM, "and left 2 checkpoints or files (net_cp=E13, net_cp=latest.json): Killed", KEPT),
        (ended(137, SENT), None, "before it said that all was sent: Killed", LOST),
        (ended(23, DENIED), CLAIM, "net_cp=latest.json): AccessDenied: s3://b/k/: the service answered 403", KEPT),
        (ended(0, SENDING), None, "and left 2 ", LOST),
        (ended(1), None, "before it said that all was sent: ", LOST),
        (ended(137, SENDING, "OOMKilled"), None, "OOMKilled", LOST),
        (RUNNING, None, "before it said that all was sent: Lost: its node did not tell", LOST),
    ],
)
def test_what_was_not_sent_when_a_pod_ended_is_never_silent(end: Any, volume: Any, what: str, remedy: str) -> None:
    dead = pod(state=end, phase="Failed", volume=volume)
    status = wanted(dead)
    state, reason, message = verdict(status)
    assert (state, reason) == ("False", "CheckpointsUnsent")
    assert what in message
    assert remedy in message
    assert "; warning: pod a has not sent all that it saved" in verdict(status, "Ready")[2]
    assert status["uploads"]["summary"].endswith("some unsent")
    events = told(status, dead)
    assert [e.kind for e in events] == ["Pod", "CheckpointPipeline"]
    gone = wanted(before=status)
    assert verdict(gone) == (state, reason, message), "the pod is gone, and what it lost is not"
    assert gone["uploads"]["unsent"] == status["uploads"]["unsent"]
    assert not differs(wanted(before=gone), gone)


def test_a_pod_that_was_deleted_while_it_sent_is_remembered_and_nobody_claims_to_know() -> None:
    sending = wanted(pod(state=RUNNING), a=SENDING)
    gone = wanted(before=sending)
    assert verdict(gone)[:2] == ("Unknown", "UploadEndNotSeen")
    assert "2 to be sent: its pod was deleted before it said that all was sent. On a claim" in verdict(gone)[2]
    assert gone["uploads"]["summary"].endswith("an end not seen")
    [unsent] = gone["uploads"]["unsent"]
    assert (unsent["pod"], unsent["time"], unsent["waiting"]) == ("a", "2026-05-04T12:00:00Z", 2)
    assert not differs(wanted(before=gone, now=NOW.replace(hour=13)), gone)
    assert [(e.kind, e.reason) for e in told(gone)] == [("CheckpointPipeline", "UploadEndNotSeen")]
    current = wanted(pod(state=RUNNING), a=SENT)
    assert "unsent" not in wanted(before=current)["uploads"], "it had nothing left"
    namesake = wanted(pod(state=RUNNING, created="11:50:00"), before=sending, a=SENT)
    assert [each["pod"] for each in namesake["uploads"]["unsent"]] == ["a"], "of a StatefulSet, say"


def test_an_answer_that_fails_to_come_takes_back_nothing_that_was_told() -> None:
    silent = wanted(pod(state=RUNNING), before=wanted(pod(state=RUNNING), a=SENDING))
    assert verdict(silent)[:2] == ("Unknown", "NotAsked")
    assert silent["uploads"]["summary"] == "12 sent, 2 waiting"
    assert silent["uploads"]["last"]["name"] == "net_cp=E12"
    assert not differs(wanted(pod(state=RUNNING), before=silent), silent)
    assert verdict(wanted(before=silent))[:2] == ("Unknown", "UploadEndNotSeen")
    assert wanted(pod(state=RUNNING), before=silent, a=SENT)["uploads"]["waiting"] == 0


def test_a_pod_that_was_deleted_while_its_upload_failed_has_not_sent_all() -> None:
    gone = wanted(before=wanted(pod(state=RUNNING), a=DENIED))
    assert verdict(gone)[:2] == ("False", "CheckpointsUnsent")
    assert "its pod was deleted before it said that all was sent; AccessDenied: s3" in verdict(gone)[2]
    assert [(e.kind, e.reason) for e in told(gone)] == [("CheckpointPipeline", "CheckpointsUnsent")]


def test_only_a_pod_that_was_made_later_overcomes_what_was_not_sent() -> None:
    dead = pod("dead", ended(137, SENDING), phase="Failed")
    beside = pod("beside", ended(0, SENT, at="11:59:00"), phase="Succeeded")
    assert verdict(wanted(dead, beside))[:2] == ("False", "CheckpointsUnsent")
    later = pod("later", RUNNING, created="11:40:00")
    status = wanted(dead, later, later=SENT)
    assert verdict(status)[:2] == ("True", "Uploaded")
    assert len(status["uploads"]["unsent"]) == 1, "it is history, and told"
    assert verdict(wanted(dead, before=status))[:2] == ("True", "Uploaded")


def test_a_message_that_the_kubelet_has_cut_is_believed_as_far_as_it_goes() -> None:
    text = json.dumps(DENIED)
    status = wanted(pod(state=ended(137, text[: text.index('"target"')]), phase="Failed"))
    assert "before it said that all was sent: AccessDenied: s3://b/k/: the service answered 403" in verdict(status)[2]
    assert (status["uploads"]["uploaded"], status["uploads"]["failures"]) == (12, 3)


def test_a_thousand_pods_make_no_long_status_and_those_with_trouble_are_listed() -> None:
    pods = [pod(f"p{number:03}", RUNNING) for number in range(999)]
    status = wanted(pod("bad", RUNNING), *pods, **{f"p{number:03}": SENT for number in range(999)}, bad=DENIED)
    assert (status["uploads"]["pods"], len(status["uploads"]["senders"])) == (1000, 10)
    assert status["uploads"]["senders"][0]["pod"] == "bad"
    texts = dict.fromkeys(("message", "remedy", "last"), "x" * 1000)
    long = json.dumps({**DENIED, **texts, "waiting": ["y" * 90] * 9})  # a message has 4096 bytes
    dead = [pod(f"d{number:03}", ended(1, long), phase="Failed") for number in range(1000)]
    worst = wanted(*dead)
    assert len(json.dumps(worst)) < 64 * 1024, "etcd takes a megabyte and a half"
    assert len(list(told(worst, *dead))) <= 10


def test_uploads_are_asked_where_they_answer() -> None:
    assert askable_uploads([observe(pod(state=RUNNING))]) == {"uid-a-10:00:00": "10.1.0.7"}
    assert askable_uploads([observe(pod(state=ended(0, SENT)))]) == {}
    quiet = pod(state=RUNNING)
    quiet["spec"]["initContainers"][1]["env"] = []
    assert askable_uploads([observe(quiet)]) == {}


def value(metric: Any) -> float:
    return float(metric._value.get())


def test_metrics_count_what_has_grown_since_and_nothing_twice() -> None:
    counting, key = Counting(), ("team-a", "saving")
    before = value(metrics.UPLOADED), value(metrics.UPLOADED_BYTES)
    failures = metrics.UPLOAD_FAILURES.labels("AccessDenied")
    failed, waiting = value(failures), value(metrics.UPLOADS_WAITING)

    def see(*pods: dict[str, Any], **answers: Any) -> tuple[float, float]:
        counting.pods(key, [observe(each) for each in pods], known(*pods, **answers).senders)
        return value(metrics.UPLOADED) - before[0], value(metrics.UPLOADED_BYTES) - before[1]

    old, new = pod("old", RUNNING), pod("new", RUNNING)
    assert see(old) == (0, 0)
    assert see(old, old=SENT) == (0, 0), "another controller has counted it"
    assert see(old, old={**SENT, "uploaded": 14, "bytes": 9000}) == (2, 1000)
    assert see(old, new, old={**SENT, "uploaded": 14, "bytes": 9000}, new=DENIED) == (14, 9000)
    assert value(failures) - failed == 3
    assert value(metrics.UPLOADS_WAITING) - waiting == 2
    assert see(old, new) == (14, 9000), "a round without answers"
    assert see(new, new={**DENIED, "uploaded": 1, "bytes": 10, "failures": 0}) == (15, 9010), "it was started again"
    counting.gone(key)
    assert value(metrics.UPLOADS_WAITING) == waiting


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
ODD = st.fixed_dictionaries(
    {"outcome": st.sampled_from(["uploaded", "uploading", "failed"])},
    optional={
        **{key: JSON | st.text(max_size=3000) for key in ("last", "reason", "message", "remedy", "target")},
        **{key: JSON for key in ("uploaded", "bytes", "failures", "moreWaiting", "present")},
        "lastTime": st.sampled_from(["0001-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-5-4T1:2:3Z", "now"]) | JSON,
        "waiting": JSON | st.lists(st.text(max_size=400), max_size=12),
    },
)


@settings(max_examples=60, deadline=None)
@given(first=ODD | JSON, second=ODD | JSON, cut=st.integers(0, 400), over=st.booleans())
def test_whatever_an_upload_tells_the_schema_takes_it(first: Any, second: Any, cut: int, over: bool) -> None:
    text = json.dumps(first)
    phase = "Failed" if over else "Running"
    pods = pod("a", ended(1, text[:cut]), ended(0, text), phase=phase), pod("b", RUNNING)
    status = wanted(*pods, **({"b": second} if Account.of(second) else {}))
    if when := status["uploads"].get("last", {}).get("time"):
        assert datetime.fromisoformat(when).isoformat().replace("+00:00", "Z") == when
    assert status["uploads"]["uploaded"] < 2**63
    list(announcements({**PIPELINE, "status": status}, [observe(each) for each in pods], NOW))
    Status.model_validate(wanted(before=status))


@given(
    st.recursive(
        JSON,
        lambda inner: st.dictionaries(
            st.sampled_from(["name", "state", "terminated", "waiting", "reason", "volumeMounts"]), inner, max_size=4
        ),
        max_leaves=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_pod_can_make_its_observation_raise(odd: Any) -> None:
    containers = [{"name": "preheat-upload", "volumeMounts": odd, "env": odd}]
    for statuses in (odd, [odd], [{"name": "preheat-upload", "state": odd, "lastState": odd, "restartCount": odd}]):
        status = {"initContainerStatuses": statuses, "phase": "Failed", "podIP": odd}
        found = observe_upload(
            {"metadata": {}, "spec": {"initContainers": containers, "volumes": odd}, "status": status}
        )
        assert isinstance(found, Upload)


def test_a_pod_without_the_container_has_no_upload() -> None:
    assert observe_upload({"spec": {"initContainers": [{"name": "preheat-loader"}]}}) is None
    assert PodReport("a", "u", "", "missed").upload is None
