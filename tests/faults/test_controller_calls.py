"""Each call of the controller fails once, in each way: what it makes of that, told in the status. Without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from faults.fake_api import Call, FakeApi, When, refusal
from preheat_operator.controller import Controller
from preheat_operator.events import Announcement, Recorder
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
