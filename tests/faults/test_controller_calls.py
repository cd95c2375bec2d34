"""Each call of the controller fails once, in each way: what it makes of that, told in the status. Without a cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from faults.fake_api import Call, FakeApi, When, refusal
from preheat_operator.announcement import Announcement
from preheat_operator.controller import Controller
from preheat_operator.recorder import Recorder
from preheat_operator.settings import Settings
from preheat_operator.worklist import Worklist

SETTINGS = Settings("preheat-system", "loader:1")
SPEC = {"stages": [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]}
KEY = ("team-a", "finetune")


def pipeline(spec: Any = SPEC) -> dict[str, Any]:
    return {"metadata": {"namespace": "team-a", "name": "finetune"}, "spec": spec}


@pytest.fixture
def api() -> FakeApi:
    api = FakeApi()
    api.put("CheckpointPipeline", pipeline())
    return api


def controller_of(api: FakeApi) -> Controller:
    """One that is in a hurry."""
    controller = Controller(api, SETTINGS)  # type: ignore[arg-type]
    controller.worklist = Worklist(controller.refresh, pause=0, delays=(0, 0, 0, 0, 0))
    return controller


def once(call: Call, error: Exception, when: When = "before") -> Callable[[Call, When], None]:
    left = [error]

    def fail(found: Call, at: When) -> None:
        if (found, at) == (call, when) and left:
            raise left.pop()

    return fail


async def quiet(controller: Controller) -> None:
    controller.changed(*KEY)
    async with asyncio.timeout(10):
        while len(controller.worklist):
            await asyncio.sleep(0.001)


def condition(api: FakeApi, kind: str = "Ready") -> dict[str, Any]:
    status = api.objects["CheckpointPipeline", *KEY].get("status") or {}
    return next((each for each in status.get("conditions", ()) if each["type"] == kind), {})


PASSING = {
    "throttled": refusal(429, "TooManyRequests"),
    "broken": refusal(500, "InternalError"),
    "overloaded": refusal(503, "ServiceUnavailable"),
    "timed out": refusal(504, "Timeout"),
    "a quota was written meanwhile": refusal(409, "Conflict"),
    "cut": httpx2.ReadError("cut"),
    "silent": httpx2.ReadTimeout("silent"),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING.keys())
async def test_a_check_that_could_not_be_begun_is_begun_soon(api: FakeApi, error: Exception, when: When) -> None:
    api.fail = once(("create", "Job"), error, when)
    await quiet(controller_of(api))
    assert len(api.kind("Job")) == 1
    assert condition(api)["reason"] == "Checking"


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING.keys())
async def test_while_it_cannot_be_begun_the_status_says_what_is_known(api: FakeApi, error: Exception) -> None:
    def fail(call: Call, when: When) -> None:
        if call == ("create", "Job"):
            raise error

    api.fail = fail
    await quiet(controller_of(api))
    assert condition(api)["reason"] == "Checking"
    assert api.calls.count(("create", "Job")) == 6, "once, and after each delay"


@pytest.mark.parametrize(("code", "reason"), [(403, "Forbidden"), (422, "Invalid"), (404, "NotFound")])
async def test_a_check_that_is_refused_is_told(api: FakeApi, code: int, reason: str) -> None:
    api.fail = once(("create", "Job"), refusal(code, reason))
    await quiet(controller_of(api))
    assert condition(api)["reason"] == "CheckNotRun"
    assert reason in condition(api)["message"]


async def test_a_spec_too_large_for_the_loader_is_told_and_not_checked(api: FakeApi) -> None:
    layers = [f"encoder.{number:03}." + "x" * 490 for number in range(240)]
    api.put("CheckpointPipeline", pipeline({"stages": [*SPEC["stages"], {"freezing": {"layers": layers}}]}))
    await quiet(controller_of(api))
    assert condition(api)["reason"] == "InvalidPipeline"
    assert "does not fit into the loader's environment" in condition(api)["message"]
    assert condition(api, "Stalled")["status"] == "True"
    assert not api.kind("Job")


def news(name: str) -> Announcement:
    return Announcement("Pod", "team-a", name, f"uid-{name}", "Warning", "NotFound", "no such key", "")


async def test_without_the_right_to_post_events_one_is_tried_now_and_then(api: FakeApi) -> None:
    recorder, now = Recorder(api, pause=0.2), datetime.now(UTC)  # type: ignore[arg-type]
    api.fail = once(("create", "Event"), refusal(403, "Forbidden"))
    assert [await recorder.post(news(name), now) for name in "abc"] == [False, False, False]
    assert api.calls.count(("create", "Event")) == 1
    async with asyncio.timeout(5):
        while not await recorder.post(news("a"), now):
            await asyncio.sleep(0.02)
    assert await recorder.post(news("b"), now)


async def test_a_namespace_that_is_going_silences_nobody_else(api: FakeApi) -> None:
    recorder, now = Recorder(api), datetime.now(UTC)  # type: ignore[arg-type]
    going = refusal(403, "Forbidden", details={"causes": [{"reason": "NamespaceTerminating"}]})
    api.fail = once(("create", "Event"), going)
    assert [await recorder.post(news(name), now) for name in "ab"] == [False, True]


NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
PODS = {"a": (11, {"outcome": "failed", "reason": "NotFound", "message": "404"}),
        "b": (0, {"outcome": "loaded", "source": {"uri": "https://x", "version": "etag:1"}})}  # fmt: skip


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


def scene() -> FakeApi:
    """A pipeline to be checked, one pod that failed and one that loaded."""
    api = FakeApi()
    api.put("CheckpointPipeline", pipeline())
    for name, (code, message) in PODS.items():
        metadata = {"namespace": "team-a", "name": name, "labels": {"preheat.dev/pipeline": "finetune"}}
        end = {"exitCode": code, "message": json.dumps(message), "finishedAt": "2026-05-04T11:59:00Z"}
        loader = {"name": "preheat-loader", "restartCount": 0, "state": {"terminated": end}}
        spec = {"initContainers": [{"name": "preheat-loader"}]}
        api.put("Pod", {"metadata": metadata, "spec": spec, "status": {"initContainerStatuses": [loader]}})
    return api


async def worked_off(api: FakeApi) -> None:
    await Controller(api, SETTINGS, lambda: NOW).refresh(KEY)  # type: ignore[arg-type]


def outcome(api: FakeApi) -> Any:
    """What others see: the status, and the names of all that was made."""
    status = api.objects["CheckpointPipeline", *KEY]["status"]
    return status, [each["metadata"]["name"] for kind in ("Job", "Event") for each in api.kind(kind)]


async def test_a_process_killed_at_any_call_leaves_nothing_twice_and_nothing_undone() -> None:
    undisturbed = scene()
    await worked_off(undisturbed)
    writes = [call for call in undisturbed.calls if call[0] in ("create", "replace")]
    assert {kind for _, kind in writes} == {"Job", "Status", "Event"}
    for number in range(len(undisturbed.calls)):
        for when in ("before", "after"):
            api, left = scene(), [number]

            def kill(_: Call, at: When, left: list[int] = left, when: str = when) -> None:
                left[0] -= at == when
                if left[0] < 0 and at == when:
                    raise Killed

            api.fail = kill
            with pytest.raises(Killed):
                await worked_off(api)
            api.fail = lambda _call, _when: None
            await worked_off(api)
            assert outcome(api) == outcome(undisturbed), (number, when)


async def test_two_that_work_at_once_leave_nothing_twice() -> None:
    alone, api = scene(), scene()
    await worked_off(alone)
    first, second = controller_of(api), controller_of(api)
    for each in (first, second):
        each._clock = lambda: NOW
    await asyncio.gather(quiet(first), quiet(second))
    assert outcome(api) == outcome(alone)
    assert api.calls.count(("replace", "Status")) <= 3
