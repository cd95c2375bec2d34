"""The status of a pipeline from its pods: counts, conditions by kstatus, memory, and pods that say odd things."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from preheat_operator.answering import Round
from preheat_operator.events import announcements
from preheat_operator.loader_run import REASONS
from preheat_operator.observation import PodReport, observe
from preheat_operator.progress import Loaders, Progress, human_seconds
from preheat_operator.quantity import human_bytes
from preheat_operator.refusal import PodRefusedError
from preheat_operator.status import differs, pod_counts, wanted_status
from preheat_operator.status_model import Status

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
SOURCE = {
    "uri": "s3://models/a.ckpt",
    "version": '"etag-1"',
    "sizeBytes": 600_000_000,
    "format": "torch-zip",
    "tensors": 42,
    "parameters": 50_000_000,
    "selectedBytes": 200_000_000,
}
LOADED = json.dumps({"outcome": "loaded", "digest": "d", "source": SOURCE, "fetchedBytes": 200_100_000, "seconds": 3})
MISSING = json.dumps(
    {
        "outcome": "failed",
        "reason": "NotFound",
        "message": "s3://models/a.ckpt does not exist",
        "remedy": "Check the key",
    }
)

WENT_ON = MISSING.replace("failed", "continued")


def pipeline(generation: int = 1, status: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {"name": "finetune", "namespace": "team-a", "uid": "p-1", "generation": generation}
    return {"metadata": metadata, "spec": {"stages": []}} | ({"status": status} if status else {})


def ended(code: int, message: str = "", at: str = "11:00:00", reason: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message, "reason": reason, "finishedAt": f"2026-05-04T{at}Z"}}


def pod(
    name: str = "a",
    state: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
    *,
    restarts: int = 0,
    generation: int = 1,
    created: str = "10:00:00",
    **status: Any,
) -> dict[str, Any]:
    made_from = json.dumps({"name": "finetune", "uid": "p-1", "generation": generation})
    loader = {"name": "preheat-loader", "env": [{"name": "PREHEAT_PIPELINE", "value": made_from}]}
    container = {"name": "preheat-loader", "restartCount": restarts, "state": state or {}, "lastState": last or {}}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "creationTimestamp": f"2026-05-04T{created}Z"},
        "spec": {"initContainers": [{"name": "mesh"}, loader], "containers": [{"name": "train"}]},
        "status": {"initContainerStatuses": [{"name": "mesh"}, container], **status},
    }


def wanted(
    *pods: dict[str, Any],
    generation: int = 1,
    before: dict[str, Any] | None = None,
    problem: str | None = None,
    now: datetime = NOW,
) -> dict[str, Any]:
    return wanted_status(pipeline(generation, before), [observe(p) for p in pods], now, problem)


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(c for c in status["conditions"] if c["type"] == kind)


def verdict(status: dict[str, Any], kind: str = "Ready") -> tuple[str, str, str]:
    found = condition(status, kind)
    return found["status"], found["reason"], found["message"]


def test_the_first_write_has_every_condition() -> None:
    status = wanted()
    assert status["observedGeneration"] == 1
    assert verdict(status) == ("True", "Accepted", "accepted; source not read yet")
    assert verdict(status, "Reconciling")[0] == verdict(status, "Stalled")[0] == "False"
    assert verdict(status, "SourceResolved") == ("Unknown", "NotRead", "nobody has read the source yet")
    assert set(status["pods"].values()) == {0}
    assert "source" not in status
    assert "failures" not in status


def test_an_invalid_spec_is_stalled_and_says_why() -> None:
    status = wanted(problem="stages[0]: unknown component `s4`. Did you mean s3?")
    assert verdict(status) == ("False", "InvalidPipeline", "stages[0]: unknown component `s4`. Did you mean s3?")
    assert verdict(status, "Stalled")[:2] == ("True", "InvalidPipeline")


def test_a_success_fills_in_the_source() -> None:
    status = wanted(pod("a", ended(0, LOADED)), pod("b", ended(0, LOADED)))
    assert status["source"] == SOURCE
    sentence = "checkpoint s3://models/a.ckpt (torch-zip, 42 tensors, 190.7 MiB) loaded by 2 pods"
    assert verdict(status) == ("True", "Loaded", sentence)
    assert verdict(status, "SourceResolved") == ("True", "Read", 's3://models/a.ckpt at version "etag-1"')


def test_a_failure_is_what_ready_says() -> None:
    status = wanted(pod("a", ended(11, MISSING)))
    assert verdict(status) == ("False", "NotFound", "pod a: s3://models/a.ckpt does not exist. Check the key")
    assert verdict(status, "SourceResolved")[:2] == ("False", "NotFound")
    assert verdict(status, "Stalled")[0] == "False"
    assert status["failures"] == [
        {
            "pod": "a",
            "time": "2026-05-04T11:00:00Z",
            "reason": "NotFound",
            "message": "s3://models/a.ckpt does not exist",
            "remedy": "Check the key",
        }
    ]


def test_a_training_that_goes_on_without_its_checkpoint_is_counted_and_makes_the_pipeline_not_ready() -> None:
    status = wanted(pod("a", ended(0, WENT_ON)))
    assert status["pods"] == {**dict.fromkeys(status["pods"], 0), "matched": 1, "injected": 1, "continued": 1}
    sentence = "pod a: trains from its initial weights: s3://models/a.ckpt does not exist. Check the key"
    assert verdict(status) == ("False", "NotFound", sentence)
    assert verdict(status, "SourceResolved")[:2] == ("False", "NotFound")
    assert [(f["pod"], f["reason"], f["remedy"]) for f in status["failures"]] == [("a", "NotFound", "Check the key")]
    assert "source" not in status
    assert verdict(wanted(before=status))[:2] == ("False", "NotFound")


def test_the_newest_outcome_decides() -> None:
    good, bad = pod("good", ended(0, LOADED, "11:00:05")), pod("bad", ended(11, MISSING, "11:00:00"))
    assert verdict(wanted(good, bad))[0] == "True"
    later = pod("bad", ended(11, MISSING, "11:00:09"))
    status = wanted(good, later)
    assert verdict(status)[:2] == ("False", "NotFound")
    assert status["source"] == SOURCE


def test_a_retry_that_succeeds_is_a_success_and_keeps_its_failure() -> None:
    status = wanted(pod("a", ended(0, LOADED, "11:00:09"), ended(10, MISSING, "11:00:00"), restarts=1))
    assert verdict(status)[:2] == ("True", "Loaded")
    assert [f["reason"] for f in status["failures"]] == ["NotFound"]


def test_a_storage_failure_says_nothing_about_the_source() -> None:
    message = json.dumps({"outcome": "failed", "reason": "NoSpace", "message": "1 GiB needed"})
    status = wanted(pod("a", ended(51, message)))
    assert verdict(status)[:2] == ("False", "NoSpace")
    assert verdict(status, "SourceResolved")[:2] == ("Unknown", "NotRead")


@pytest.mark.parametrize(
    ("state", "last", "phase"),
    [
        ({}, {}, "loading"),
        ({"waiting": {"reason": "PodInitializing"}}, {}, "loading"),
        ({"running": {}}, {}, "loading"),
        ({"running": {}}, ended(11, MISSING), "loading"),
        ({"running": {}}, ended(0, LOADED), "loading"),
        (ended(0, LOADED), {}, "loaded"),
        (ended(0), ended(11, MISSING), "loaded"),
        (ended(0, WENT_ON), {}, "continued"),
        (ended(0, WENT_ON[:60]), {}, "continued"),
        (ended(11, MISSING), {}, "failed"),
        ({"waiting": {"reason": "CrashLoopBackOff"}}, ended(11, MISSING), "failed"),
        ({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, {}, "failed"),
        ({"waiting": {"reason": "CreateContainerConfigError"}}, {}, "failed"),
    ],
)
def test_every_state_of_the_loader_is_one_phase(state: dict[str, Any], last: dict[str, Any], phase: str) -> None:
    assert observe(pod("a", state, last)).phase == phase


def test_counts_add_up() -> None:
    plain = {"metadata": {"name": "plain", "uid": "u"}, "spec": {"containers": [{"name": "train"}]}}
    pods = [pod("a"), pod("b", ended(0, LOADED)), pod("c", ended(1)), pod("d", ended(0, WENT_ON)), plain]
    assert pod_counts(observe(p) for p in pods) == {
        "matched": 5, "injected": 4, "loading": 1, "loaded": 1, "continued": 1, "failed": 1, "missed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("end", "reason", "part"),
    [
        (ended(137, "", reason="OOMKilled"), "OOMKilled", "more memory than its limit"),
        (ended(137, "", reason="Error"), "Killed", "exit code 137"),
        (ended(22, "Traceback: boom"), "Truncated", "boom"),
        (ended(99), "Failed", "exit code 99 and no message"),
        (ended(11, MISSING[:70]), "NotFound", "s3://models/"),
        (ended(1, "[" * 4000), "Failed", "[["),
        (ended(1, json.dumps({"reason": "not a reason!", "message": 7})), "Failed", "not a reason"),
        (ended(1, json.dumps({"reason": "NotFound", "message": "a\u0000b\n\ud800c"})), "NotFound", "ab ?c"),
    ],
)
def test_a_loader_that_cannot_speak_clearly_still_gets_a_reason(end: dict[str, Any], reason: str, part: str) -> None:
    failure = observe(pod("a", end)).failure
    assert failure is not None
    assert failure.reason == reason
    assert part in failure.message


def test_what_only_the_webhook_says_is_no_reason_of_a_loader() -> None:
    assert PodRefusedError.reason not in REASONS


def test_an_unpullable_image_names_what_to_check() -> None:
    conditions = [{"type": "PodScheduled", "lastTransitionTime": "2026-05-04T10:00:02Z"}]
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
    status = wanted(pod("a", waiting, conditions=conditions))
    assert status["failures"][0]["time"] == "2026-05-04T10:00:02Z"
    assert "loader image" in status["failures"][0]["remedy"]


def test_an_evicted_pod_is_a_failure_with_the_nodes_words() -> None:
    evicted = pod("a", phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage")
    assert verdict(wanted(evicted))[:2] == ("False", "Evicted")


def test_a_pod_that_failed_after_its_loader_is_no_loader_failure() -> None:
    assert observe(pod("a", ended(0, LOADED), phase="Failed")).phase == "loaded"


def test_a_loader_stopped_with_its_pod_is_no_failure() -> None:
    stopped = pod("a", ended(143, reason="Error"))
    stopped["metadata"]["deletionTimestamp"] = "2026-05-04T11:00:00Z"
    assert observe(stopped).failure is None


def test_figures_that_do_not_fit_the_resource_are_left_out() -> None:
    message = json.dumps(
        {"source": {"uri": "x" * 5000, "tensors": 10**30, "sizeBytes": -1, "parameters": True, "k": 1}}
    )
    success = observe(pod("a", ended(0, message))).success
    assert success is not None
    assert list(success.source) == ["uri"]
    assert len(success.source["uri"]) == 1024


def test_what_was_seen_is_kept_when_the_pods_are_gone() -> None:
    before = wanted(pod("a", ended(0, LOADED)))
    status = wanted(before=before)
    assert status["source"] == SOURCE
    assert verdict(status)[:2] == ("True", "Loaded")
    failed = wanted(pod("b", ended(11, MISSING, "13:00:00")), before=before)
    after = wanted(before=failed)
    assert verdict(after) == verdict(failed)
    assert after["failures"] == failed["failures"]


def test_an_old_failure_does_not_undo_a_success_whose_pod_is_gone() -> None:
    bad = pod("bad", ended(11, MISSING, "11:00:00"))
    before = wanted(bad, pod("good", ended(0, LOADED, "11:30:00")))
    assert verdict(wanted(bad, before=before))[:2] == ("True", "Loaded")


def test_a_failure_that_was_overcome_stays_so_when_all_its_pods_are_gone() -> None:
    accepted = wanted(now=NOW.replace(hour=10))
    bad, good = pod("bad", ended(11, MISSING, "11:00:00")), pod("good", ended(0, LOADED, "11:00:01"))
    loaded = wanted(bad, good, before=accepted)
    assert verdict(loaded)[:2] == ("True", "Loaded")
    assert verdict(wanted(before=loaded))[:2] == ("True", "Loaded")
    assert verdict(wanted(bad, before=loaded))[:2] == ("True", "Loaded")


def test_the_last_fetch_says_how_long_it_took_and_how_fast_it_was() -> None:
    reused = LOADED.replace('"loaded"', '"reused"')
    status = wanted(pod("a", ended(0, LOADED)), pod("b", ended(0, reused, "11:30:00")))
    load = {"pod": "a", "time": "2026-05-04T11:00:00Z", "seconds": 3.0, "fetchedBytes": 200_100_000}
    assert status["lastLoad"] == {**load, "bytesPerSecond": 66_700_000}
    assert wanted(before=status)["lastLoad"] == status["lastLoad"], "remembered when the pod is gone"
    assert wanted(pod("c", ended(0, LOADED, "11:40:00")), before=status)["lastLoad"]["pod"] == "c"
    assert "lastLoad" not in wanted(pod("b", ended(0, reused)))


RUN = {"run": "/output/exp-7", "strategy": "warmStart"}
PASSED = [{"checkpoint": "m_cp=E3", "why": "Corrupt: CRC-32 is another"}, {"checkpoint": "m_cp=E2", "why": "poisoned"}]


def decided(**resume: Any) -> str:
    return json.dumps({**json.loads(LOADED), "resume": {**RUN, "checkpoint": None, "passed": [], **resume}})


def test_a_checkpoint_of_the_run_is_told_with_what_was_passed_over() -> None:
    began = wanted(pod("a", ended(0, decided())))
    assert began["resume"] == {"pod": "a", "time": "2026-05-04T11:00:00Z", **RUN, "passed": []}
    assert verdict(began)[2].endswith("loaded by 1 pod; nothing to resume from in /output/exp-7")
    went_on = pod("b", ended(0, decided(checkpoint="m_cp=E1", passed=PASSED, morePassed=3), "11:30:00"))
    status = wanted(went_on, before=began)
    assert status["resume"]["checkpoint"] == "m_cp=E1"
    assert (status["resume"]["passed"], status["resume"]["morePassed"]) == (PASSED, 3)
    assert verdict(status) == (
        "True", "Loaded", "checkpoint m_cp=E1 of the run in /output/exp-7 (warmStart) loaded by 1 pod; "
        "passed over m_cp=E3: Corrupt: CRC-32 is another, and 4 more",
    )  # fmt: skip
    assert status["source"] == SOURCE, "what the stages name"
    assert wanted(before=status)["resume"] == status["resume"], "remembered when the pod is gone"
    Status.model_validate(status)


def test_events_say_what_was_passed_over_and_take_no_checkpoint_of_the_run_for_the_source() -> None:
    report = observe(pod("b", ended(0, decided(checkpoint="m_cp=E1", passed=PASSED[:1]))))
    [told] = announcements({**pipeline(), "metadata": {**pipeline()["metadata"]}}, [report], NOW.replace(hour=11))
    assert (told.kind, told.reason) == ("Pod", "CheckpointLoaded")
    assert told.message.endswith("passed over m_cp=E3: Corrupt: CRC-32 is another")


@pytest.mark.parametrize(
    "odd",
    [
        {"run": 7}, {"strategy": "other"}, {"checkpoint": ["x"]}, {"passed": {"a": 1}}, {"passed": ["x", {}]},
        {"morePassed": -1}, {"passed": [{"checkpoint": "c\n" * 9999, "why": None}] * 50},
    ],
)  # fmt: skip
def test_odd_decisions_make_no_odd_status(odd: dict[str, Any]) -> None:
    Status.model_validate(wanted(pod("a", ended(0, decided(**odd)))))


@pytest.mark.parametrize("seconds", ["3", True, -1, 1e300, float("nan"), None, []])
def test_a_duration_that_cannot_be_is_left_out(seconds: Any) -> None:
    odd = json.dumps({**json.loads(LOADED), "seconds": seconds})
    assert set(wanted(pod("a", ended(0, odd)))["lastLoad"]) == {"pod", "time", "fetchedBytes"}


def loading(name: str = "a", **status: Any) -> dict[str, Any]:
    """A pod whose loader runs and can be asked."""
    running = {"running": {"startedAt": "2026-05-04T11:00:00Z"}}
    found = pod(name, running, **{"podIP": "10.1.0.7", "hostIP": "10.0.0.1", **status})
    found["spec"]["initContainers"][1]["env"].append({"name": "PREHEAT_PROGRESS_PORT", "value": "18738"})
    return found


def test_a_running_loader_is_asked_at_its_pods_own_address() -> None:
    assert observe(loading()).address == "10.1.0.7"
    assert observe(loading(podIP="fd00::7")).address == "fd00::7"
    assert observe(pod("a", ended(0, LOADED), podIP="10.1.0.7")).address is None


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "127.0.0.1", "::1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254",
        "224.0.0.1", "0.0.0.0", "metadata.internal", "10.1.0.7:80", "", None, 17, ["10.1.0.7"],
    ],
)  # fmt: skip
def test_nobody_is_asked_at_an_address_that_no_pod_has(address: Any) -> None:
    assert observe(loading(podIP=address)).address is None


def test_on_the_nodes_network_and_without_the_port_nobody_is_asked() -> None:
    shared, mute, elsewhere = loading(), loading(), loading()
    shared["spec"]["hostNetwork"] = True
    mute["spec"]["initContainers"][1]["env"].pop()
    elsewhere["spec"]["initContainers"][1]["env"][-1]["value"] = "22"
    assert [observe(each).address for each in (shared, mute, elsewhere)] == [None] * 3


def followed(*pods: dict[str, Any], before: dict[str, Any] | None = None, **answers: Progress) -> dict[str, Any]:
    reports = [observe(each) for each in pods]
    last = Round("2026-05-04T11:59:58Z", {f"uid-{name}": answer for name, answer in answers.items()})
    return wanted_status(pipeline(status=before), reports, NOW, loaders=Loaders.of(reports, last))


GIB = 1 << 30


def test_the_status_says_how_far_running_loaders_are() -> None:
    half = Progress("transferring", GIB // 2, GIB, GIB // 8, 0.1)
    quarter = Progress("transferring", GIB // 4, GIB, GIB // 8, 0.1)
    status = followed(loading("a"), loading("b"), pod("c", ended(0, LOADED)), a=half, b=quarter)
    progress = status["progress"]
    assert progress["summary"] == "37% 256.0 MiB/s 6s"
    assert (progress["bytesDone"], progress["bytesTotal"], progress["etaSeconds"]) == (3 * GIB // 4, 2 * GIB, 6)
    assert [each["pod"] for each in progress["loaders"]] == ["b", "a"]
    said = "2 loaders run: 37% of 2.0 GiB, 256.0 MiB/s, 6s left"
    assert verdict(status, "Loading") == ("True", "Loading", said)
    assert verdict(status)[:2] == ("True", "Loaded")
    assert verdict(status, "Reconciling")[0] == "False", "a wait for the resource is no wait for its pods"
    done = followed(pod("a", ended(0, LOADED)), before=status, a=half)
    assert "progress" not in done
    assert verdict(done, "Loading") == ("False", "Idle", "no loader runs")


def test_a_loader_that_receives_nothing_is_named() -> None:
    still = Progress("transferring", 100, 1000, 0, 75.2)
    status = followed(loading("a"), loading("b"), a=still, b=Progress("waiting", 0, 0, 0, 900))
    assert status["progress"]["summary"] == "10% stalled"
    assert [each.get("stalledSeconds") for each in status["progress"]["loaders"]] == [75, None]
    state, reason, message = verdict(status, "Loading")
    assert (state, reason) == ("True", "LoaderStalled")
    assert message.startswith("the loader of pod a has received nothing for 1m15s. See")
    assert verdict(status)[0] == "True"
    assert verdict(status)[2].endswith("; warning: the loader of pod a receives nothing")
    events = list(announcements({**pipeline(), "status": status}, [observe(loading("a"))], NOW))
    assert [(each.kind, each.reason) for each in events] == [
        ("Pod", "LoaderStalled"), ("CheckpointPipeline", "LoaderStalled"),
    ]  # fmt: skip
    longer = followed(loading("a"), a=replace(still, idle=85))
    again = list(announcements({**pipeline(), "status": longer}, [observe(loading("a"))], NOW))
    assert [each.event_name for each in again] == [each.event_name for each in events], "it still stands there"


@pytest.mark.parametrize(
    ("phase", "says"), [("reading", "reading"), ("waiting", "waiting"), ("finishing", "100% finishing")]
)
def test_what_has_no_rate_has_a_word(phase: Any, says: str) -> None:
    total = 100 if phase == "finishing" else 0
    status = followed(loading("a"), loading("b"), a=Progress(phase, total, total, 0, 5))
    assert status["progress"]["summary"] == says
    assert verdict(status, "Loading")[2].startswith("2 loaders run, 1 answered: ")


NUMBERS = {"bytesDone": 5, "bytesTotal": 10, "bytesPerSecond": 1, "idleSeconds": 0.5}


@pytest.mark.parametrize(
    "odd",
    [
        [], "text", None, {}, {"phase": "transferring"}, {"phase": ["reading"], **NUMBERS}, {"phase": "x", **NUMBERS},
        *({"phase": "reading", **NUMBERS, name: bad} for name in NUMBERS for bad in (-1, "5", True, 2**64, None, [])),
        {"phase": "reading", **NUMBERS, "idleSeconds": float("nan")},
    ],
)  # fmt: skip
def test_what_no_loader_tells_is_not_believed(odd: Any) -> None:
    assert Progress.of(odd) is None


@settings(max_examples=30)
@given(
    told=st.lists(
        st.builds(
            Progress,
            st.sampled_from(["reading", "waiting", "transferring", "finishing"]),
            *[st.integers(0, 2**63 - 1)] * 3,
            st.floats(0, 3e9),
        ),
        max_size=14,
    )
)
def test_whatever_loaders_tell_the_schema_accepts(told: list[Progress]) -> None:
    pods = [loading(f"p{number}") for number in range(len(told))]
    answers = {f"p{number}": Progress.of(asdict_of(each)) for number, each in enumerate(told)}
    Status.model_validate(followed(*pods, **{name: each for name, each in answers.items() if each}))


def asdict_of(progress: Progress) -> dict[str, Any]:
    return {
        "phase": progress.phase,
        "bytesDone": progress.done,
        "bytesTotal": progress.total,
        "bytesPerSecond": progress.rate,
        "idleSeconds": progress.idle,
    }


def test_durations_are_readable() -> None:
    assert [human_seconds(each) for each in (0.9, 12, 70, 3600 * 26 + 300)] == ["0s", "12s", "1m10s", "26h05m"]


def test_a_pod_of_the_same_name_does_not_erase_the_failure_before_it() -> None:
    before = wanted(pod("web-0", ended(11, MISSING, "11:00:00")))
    assert verdict(wanted(pod("web-0", created="11:30:00"), before=before))[:2] == ("False", "NotFound")


def test_a_changed_spec_starts_afresh() -> None:
    before = wanted(pod("a", ended(11, MISSING)))
    status = wanted(pod("a", ended(11, MISSING)), generation=2, before=before)
    assert status["pods"]["failed"] == 1
    assert "failures" not in status
    state, reason, message = verdict(status)
    assert (state, reason) == ("True", "Accepted")
    assert "1 pod was made from an earlier generation" in message


def test_a_pod_of_a_deleted_namesake_is_not_evidence() -> None:
    stranger = pod("a", ended(0, LOADED))
    value = stranger["spec"]["initContainers"][1]["env"][0]
    value["value"] = value["value"].replace("p-1", "p-0")
    assert "source" not in wanted(stranger)


def test_only_the_last_failures_are_kept() -> None:
    status = wanted(*(pod(f"p{i}", ended(11, MISSING, f"11:00:0{i}")) for i in range(9)))
    assert [f["pod"] for f in status["failures"]] == ["p8", "p7", "p6", "p5", "p4"]


def test_a_transition_keeps_its_time_until_the_status_changes() -> None:
    first = wanted()
    later = NOW.replace(hour=14)
    loaded = wanted(pod("a", ended(0, LOADED)), before=first, now=later)
    assert condition(loaded, "Ready")["lastTransitionTime"] == "2026-05-04T12:00:00Z"
    assert condition(loaded, "SourceResolved")["lastTransitionTime"] == "2026-05-04T14:00:00Z"


def test_the_same_facts_are_not_written_twice() -> None:
    pods = [pod("b", ended(11, MISSING)), pod("a", ended(0, LOADED))]
    first = wanted(*pods)
    again = wanted(*reversed(pods), before=first, now=NOW.replace(hour=20))
    assert not differs(again, first)
    assert not differs({**first, "conditions": list(reversed(first["conditions"]))}, first)
    assert differs(first, None)


def test_a_failure_from_before_its_pod_was_created_is_told_once() -> None:
    """The clock of a node may be behind."""
    late = {
        **pod("b", ended(11, MISSING)),
        "metadata": {**pod("b")["metadata"], "creationTimestamp": "2030-01-01T00:00:00Z"},
    }
    first = wanted(late)
    assert len(first["failures"]) == 1
    assert not differs(wanted(late, before=first), first)


def test_sizes_are_readable() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1536, 3 * 2**30, 5 * 2**50)] == [
        "0 B", "1023 B", "1.5 KiB", "3.0 GiB", "5120.0 TiB",
    ]  # fmt: skip


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "state", "lastState", "terminated", "waiting", "reason", "message", "exitCode"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@example(statuses={"terminated": {"exitCode": [1]}}, containers=None, message="")
@example(statuses={"waiting": {"reason": []}}, containers=None, message="")
@given(statuses=JUNK, containers=JUNK, message=st.text(max_size=60))
def test_no_pod_can_make_observation_raise(statuses: Any, containers: Any, message: str) -> None:
    loader = {"name": "preheat-loader", "env": containers, "state": statuses}
    ends = {
        "name": "preheat-loader",
        "state": {"terminated": {"exitCode": 3, "message": message}},
        "lastState": statuses,
    }
    for entries in (statuses, [statuses], [loader], [ends]):
        odd = {"metadata": {"name": "a", "uid": "u"}, "spec": {"initContainers": [loader]}}
        report = observe({**odd, "status": {"initContainerStatuses": entries}})
        assert isinstance(report, PodReport)
        assert wanted_status(pipeline(), [report], NOW)["pods"]["matched"] == 1


def test_what_a_check_only_warned_of_is_in_the_status() -> None:
    warned = json.dumps({**json.loads(LOADED), "warnings": ["tensor 'w' holds NaN", "x\u0000" * 3000, *"abcdefghij"]})
    status = wanted(pod("a", ended(0, warned)))
    said = status["source"]["warnings"]
    assert (said[0], len(said)) == ("tensor 'w' holds NaN", 8)
    assert len(said[1]) == 1024
    assert verdict(status)[2].endswith("; warning: tensor 'w' holds NaN")
    assert wanted(before=status)["source"]["warnings"] == said
    assert "warnings" not in wanted(pod("b", ended(0, LOADED)))["source"]
