"""Deaths on a run's checkpoints: read from pods that end in every way, kept once each, told to the next loaders."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listed_and_watched import serving, until

from faults.fake_api import FakeApi
from preheat.resume.deaths import Deaths
from preheat_operator.admission import Entry
from preheat_operator.controller import Controller
from preheat_operator.deaths import FORGET, KEPT_DEATHS, Death, deaths_in, deaths_of, for_loaders, kept, poisoned
from preheat_operator.events import POISONED, announcements
from preheat_operator.failed_pods import FailedPods
from preheat_operator.follower import Pace
from preheat_operator.labelled_pods import PATH
from preheat_operator.observation import PodReport, observe
from preheat_operator.settings import Settings
from preheat_operator.status import wanted_status
from preheat_operator.status_model import Status

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
RUN, LAST = "s3://runs/exp-7/", "model_cp=E40_U160"
SPEC = {
    "stages": [{"http": {"url": "https://models.example.org/model.ckpt"}}, {"weightsOnly": {}}],
    "resume": {"from": {"s3": {"bucket": "runs", "key": "exp-7/"}}},
}


def at(minute: int) -> str:
    return f"2026-05-04T11:{minute:02}:00Z"


def seconds(minute: int) -> float:
    return datetime(2026, 5, 4, 11, minute, tzinfo=UTC).timestamp()


def words(start: str = "1", **more: Any) -> str:
    said = {"run": RUN, "checkpoint": LAST, "saved": seconds(0), "start": start, "began": seconds(5), "ranks": [0]}
    return json.dumps({"preheat": {**said, **more}}) + "\nloss is NaN"


def ended(code: int, minute: int = 10, message: str | None = None, reason: str = "Error") -> dict[str, Any]:
    said = words() if message is None else message
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": at(minute), "message": said}}


def pod(name: str = "a", *states: dict[str, Any], last: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    """One whose loader brought the newest checkpoint, and whose training containers are in these states."""
    told = json.dumps({"uid": "p-1", "generation": status.pop("generation", 1)})
    loader = {"name": "preheat-loader", "env": [{"name": "PREHEAT_PIPELINE", "value": told}]}
    containers = [{"name": f"train-{n}", "state": state, "lastState": last or {}} for n, state in enumerate(states)]
    decided = status.pop("decided", None)
    message = json.dumps({"outcome": "loaded", **({"resume": decided} if decided else {})})
    done = {"terminated": {"exitCode": 0, "finishedAt": status.pop("loaded", at(4)), "message": message}}
    metadata = {"name": name, "uid": f"uid-{name}", "creationTimestamp": at(3), **status.pop("metadata", {})}
    loaders = [{"name": "preheat-loader", "state": done}]
    return {
        "metadata": metadata,
        "spec": {"initContainers": [loader], "containers": [{"name": "train-0"}]},
        "status": {"initContainerStatuses": loaders, "containerStatuses": containers, **status},
    }


def resource(status: dict[str, Any] | None = None, **annotations: str) -> dict[str, Any]:
    metadata = {"name": "exp-7", "namespace": "team-a", "uid": "p-1", "generation": 1, "annotations": annotations}
    return {"metadata": metadata, "spec": SPEC, "status": status or {}}


def decision(checkpoint: str | None, *passed: str, **more: Any) -> dict[str, Any]:
    over = [{"checkpoint": name, "why": "poisoned"} for name in passed]
    return {"run": RUN, "strategy": "warmStart", "checkpoint": checkpoint, "passed": over, **more}


def death(start: str = "1", minute: int = 10, **more: Any) -> Death:
    one = Death(RUN, LAST, seconds(0), start, seconds(minute) - 60, f"pod-{start}", at(minute), "exit code 1")
    return replace(one, **more)


def wanted(*pods: dict[str, Any], before: dict[str, Any] | None = None, **annotations: str) -> dict[str, Any]:
    status = wanted_status(resource(before, **annotations), [observe(each) for each in pods], NOW)
    Status.model_validate(status)
    return status


def ready(status: dict[str, Any]) -> str:
    return str(next(each for each in status["conditions"] if each["type"] == "Ready")["message"])


def test_a_container_that_died_tells_on_what() -> None:
    [found] = deaths_in(pod("a", ended(137, reason="OOMKilled")))
    assert found == Death(RUN, LAST, seconds(0), "1", seconds(5), "a", at(10), "OOMKilled")
    [found] = deaths_in(pod("a", ended(139)))
    assert found.reason == "exit code 139"


DISRUPTED = {"conditions": [{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": at(9)}]}
DELETED = {"deletionTimestamp": at(10), "deletionGracePeriodSeconds": 60}


@pytest.mark.parametrize(
    "ending",
    [
        pod("completed", ended(0)),
        pod("asked by SIGTERM", ended(143)),
        pod("deleted, and killed after its time", ended(137), metadata=DELETED),
        pod("preempted", ended(1), **DISRUPTED),
        pod("evicted", ended(137), phase="Failed", reason="Evicted"),
        pod("too late", ended(137), phase="Failed", reason="DeadlineExceeded"),
        pod("lost with its node", ended(137, reason="ContainerStatusUnknown")),
        pod("found by no kubelet", ended(255, reason="Unknown")),
        pod("ended by itself, on no checkpoint of the run", ended(1, message="no data")),
        pod("running", {"running": {"startedAt": at(5)}}),
        pod("odd", ended(1, message='{"preheat": {"run": 3}}')),
        pod("cut", ended(1, message=words()[:40])),
        {"status": {"containerStatuses": [None, {"state": {"terminated": {"message": words()}}}, {}]}},
        {},
    ],
    ids=lambda found: found.get("metadata", {}).get("name", "bare"),
)
def test_an_end_in_order_or_by_kubernetes_is_no_death(ending: dict[str, Any]) -> None:
    assert deaths_in(ending) == ()


def test_who_died_before_its_pod_was_asked_to_go_has_died() -> None:
    """As the pods of a JobSet that restarts: they fail, and are deleted for it."""
    deleted = {"deletionTimestamp": at(12), "deletionGracePeriodSeconds": 60}
    assert deaths_in(pod("a", ended(1, 10), metadata=deleted))
    late = [{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": at(11)}]
    assert deaths_in(pod("a", ended(1, 10), conditions=late))
    again = pod("a", ended(137, 20, words("2")), last=ended(1, 10), phase="Failed", reason="Evicted")
    assert [each.start for each in deaths_in(again)] == ["1"], "before it was started again"


def test_a_container_that_starts_again_in_place_dies_again() -> None:
    first = wanted(pod("a", {"waiting": {"reason": "CrashLoopBackOff"}}, last=ended(1)))
    second = wanted(pod("a", ended(1, 20, words("2")), last=ended(1)), before=first)
    third = wanted(pod("a", ended(1, 30, words("3")), last=ended(1, 20, words("2"))), before=second)
    assert [each["start"] for each in third["deaths"]] == ["3", "2", "1"]


def test_ranks_die_together_whatever_pods_they_are_in() -> None:
    ranks = [pod(f"rank-{n}", ended(1, 10 + n % 3)) for n in range(8)]
    [told] = wanted(*ranks)["deaths"]
    assert (told["pod"], told["time"]) == ("rank-0", at(10)), "who ended first"


def test_pods_of_an_earlier_generation_tell_and_those_of_another_pipeline_do_not() -> None:
    assert wanted(pod("a", ended(1), generation=0))["deaths"]
    stranger = pod("a", ended(1))
    stranger["spec"]["initContainers"][0]["env"][0]["value"] = json.dumps({"uid": "p-0", "generation": 1})
    assert "deaths" not in wanted(stranger)


starts = st.builds(
    death,
    st.sampled_from("123456"),
    st.integers(1, 59),
    run=st.sampled_from([RUN, "s3://runs/exp-8/"]),
    checkpoint=st.sampled_from([LAST, "model_cp=E39_U156"]),
    pod=st.sampled_from("abc"),
)


@settings(max_examples=40)
@given(st.lists(st.lists(starts, max_size=3), max_size=4), st.randoms())
def test_pods_in_any_order_seen_again_or_gone_and_a_controller_that_restarts_tell_the_same(
    looks: list[list[Death]], chance: Any
) -> None:
    def after(*each_look: list[Death]) -> list[Death]:
        status: dict[str, Any] = {}
        for look in each_look:
            status = json.loads(json.dumps({"deaths": [vars(each) for each in kept(look, status, (), 0.0)]}))
        return deaths_of(status)

    once = [each for look in looks for each in look]
    shuffled = [chance.sample(look, len(look)) for look in chance.sample(looks, len(looks))]
    assert after(*looks) == after(*shuffled) == after(once) == after(once, *looks, []) == after(*looks, once)
    assert {(each.run, each.start) for each in after(once)} == {(each.run, each.start) for each in once}


@settings(max_examples=20)
@given(st.lists(st.builds(death, st.uuids().map(str), st.integers(1, 59)), max_size=2 * KEPT_DEATHS))
def test_a_status_holds_the_last_ones_and_a_variable_as_many_as_fit(many: list[Death]) -> None:
    left = kept(many, {}, (), 0.0)
    assert len(left) == min(len(many), KEPT_DEATHS)
    assert all(each.time >= left[-1].time for each in left)
    text = for_loaders(resource({"deaths": [vars(each) for each in left]}))
    assert len(text) <= 4000
    assert len(Deaths.read(text).known) == len(left), "these names are short"


def test_what_a_later_loader_has_left_behind_is_not_kept() -> None:
    dead, new = pod("a", ended(1)), {"running": {}}

    def after(decided: dict[str, Any], loaded: str = at(20)) -> bool:
        return "deaths" in wanted(dead, pod("b", new, decided=decided, loaded=loaded))

    assert after(decision(LAST)), "it is taken again"
    assert after(decision("model_cp=E39_U156", LAST)), "it is passed over"
    assert after(decision("model_cp=E1_U4", "x", morePassed=40)), "it may be among those"
    assert after(decision("model_cp=E41_U164"), loaded=at(9)), "before the death"
    assert after({**decision("model_cp=E41_U164"), "run": "s3://runs/exp-8/"}), "of another run"
    assert not after(decision("model_cp=E41_U164"))


def test_a_checkpoint_on_which_too_many_died_is_told_with_what_lifts_it() -> None:
    two = wanted(pod("a", ended(1)), pod("b", ended(1, 20, words("2"))))
    assert "poisoned" not in ready(two)
    three = wanted(pod("c", ended(137, 30, words("3"), "OOMKilled")), before=two)
    said = (
        f"{LAST} of the run in {RUN} is poisoned: 3 processes died on it, the last one in pod c (OOMKilled). New pods "
        "pass it over until one beyond it is saved, or `kubectl preheat forget exp-7` lifts that"
    )
    assert said in ready(three)
    told = [each for each in announcements(resource(three), [], NOW) if each.reason == POISONED]
    assert [(each.kind, each.type, each.message) for each in told] == [("CheckpointPipeline", "Warning", said)]
    anew = [replace(each, saved=seconds(40)) for each in deaths_of(three)[:2]]
    assert poisoned(resource(), [*anew, *deaths_of(three)[2:]]) == [], "saved anew, it is another"
    for limit, count in ((0, 0), (4, 0), (2, 1)):
        limited = {**SPEC, "resume": {**SPEC["resume"], "maxFailures": limit}}  # type: ignore[dict-item]
        assert len(poisoned({**resource(), "spec": limited}, deaths_of(three))) == count


def test_two_runs_of_one_pipeline_do_not_poison_each_other() -> None:
    deaths = [death("1"), death("2", run="s3://runs/exp-8/"), death("3")]
    assert poisoned(resource(), deaths) == []
    told = Deaths.read(for_loaders(resource({"deaths": [vars(each) for each in deaths]})))
    assert len(told.of(RUN).known) == 2


def test_an_annotation_forgets_whoever_began_until_then() -> None:
    three = wanted(*(pod(name, ended(1, 10, words(name, began=seconds(5 + n)))) for n, name in enumerate("abc")))
    assert len(three["deaths"]) == 3
    forgiven = {FORGET: at(6)}
    assert [each["start"] for each in wanted(before=three, **forgiven)["deaths"]] == ["c"]
    told = Deaths.read(for_loaders(resource(three, **forgiven)))
    assert told.forgotten == seconds(6), "before the status has followed, and for marks that only a loader sees"
    assert Deaths.read(for_loaders(resource(**forgiven))).forgotten == seconds(6)
    assert for_loaders(resource()) == ""


def test_an_annotation_that_is_no_time_is_told_and_forgets_nothing() -> None:
    status = wanted(pod("a", ended(1)), **{FORGET: "yes"})
    assert f"warning: annotation {FORGET} is 'yes', which is no time such as" in ready(status)
    assert len(status["deaths"]) == 1


def test_a_status_that_changes_reaches_the_next_pod_without_the_spec_being_read_again() -> None:
    before = Entry(resource())
    assert before.pipeline.deaths == ""
    after = before.with_status(resource({"deaths": [vars(death())]}))
    assert after.pipeline.parsed is before.pipeline.parsed
    assert [each.checkpoint for each in Deaths.read(after.pipeline.deaths).known] == [LAST]


async def test_a_pod_that_its_owner_deletes_at_once_has_told_of_its_death() -> None:
    """As the training operator does with one that it makes anew; the controller's own look comes too late."""
    told: list[tuple[tuple[str, str], PodReport]] = []
    labelled = {"namespace": "team-a", "labels": {"preheat.dev/pipeline": "exp-7"}}
    async with serving(PATH) as (server, http):
        pods = FailedPods(http, lambda key, report: told.append((key, report)), Pace(watch=1, first_delay=0.01))
        task = asyncio.create_task(pods.run())
        await pods.listed()
        await until(lambda: server.watches)
        server.put(pod("harmless", ended(1, message="no data"), metadata={"name": "harmless", **labelled}))
        server.put(pod("a", ended(1), metadata={"name": "a", **labelled}))
        server.delete("a")
        await until(lambda: told)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    [(key, report)] = told
    assert key == ("team-a", "exp-7")
    api = FakeApi()
    pipeline = {"metadata": {"namespace": "team-a", "name": "exp-7"}, "spec": SPEC}
    uid = api.put("CheckpointPipeline", pipeline)["metadata"]["uid"]
    controller = Controller(api, Settings("preheat-system", "loader:1", check=False), clock=lambda: NOW)  # type: ignore[arg-type]
    controller.fell(key, replace(report, pipeline_uid=uid))
    await controller.worklist.close()
    for _ in range(2):
        await controller.refresh(key)
    [found] = api.kind("CheckpointPipeline")
    assert [each["pod"] for each in found["status"]["deaths"]] == ["a"]
    assert api.calls.count(("replace", "Status")) == 1
    assert controller._untold.of(key) == []
