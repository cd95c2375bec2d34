"""A controller that takes another's place tells nothing twice, and looks at nothing for nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from faults.fake_api import FakeApi
from preheat_operator.controller import Controller
from preheat_operator.settings import Settings

SETTINGS = Settings("preheat-system", "loader:1", check=False)
KEY = ("team-a", "finetune")
NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
SPEC = {"stages": [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]}


def loaded(name: str, time: str) -> dict[str, Any]:
    ended = {"exitCode": 0, "finishedAt": time, "message": json.dumps({"outcome": "loaded", "source": {}})}
    container = {"name": "preheat-loader", "restartCount": 0, "state": {"terminated": ended}}
    return {
        "metadata": {"namespace": "team-a", "name": name, "labels": {"preheat.dev/pipeline": "finetune"}},
        "spec": {"initContainers": [{"name": "preheat-loader"}]},
        "status": {"initContainerStatuses": [container]},
    }


@pytest.fixture
def api() -> FakeApi:
    api = FakeApi()
    api.put("CheckpointPipeline", {"metadata": {"namespace": "team-a", "name": "finetune"}, "spec": SPEC})
    api.put("Pod", loaded("early", "2026-05-04T11:30:00Z"))
    return api


def controller_of(api: FakeApi) -> Controller:
    return Controller(api, SETTINGS, clock=lambda: NOW)  # type: ignore[arg-type]


async def test_what_was_told_is_not_asked_for_again(api: FakeApi) -> None:
    await controller_of(api).refresh(KEY)
    assert ("create", "Event") in api.calls
    api.calls.clear()
    successor = controller_of(api)
    for _ in range(2):
        await successor.refresh(KEY)
    assert ("create", "Event") not in api.calls


async def test_what_happened_between_the_two_is_told(api: FakeApi) -> None:
    await controller_of(api).refresh(KEY)
    api.delete("Pod", "team-a", "early")
    api.put("Pod", loaded("late", "2026-05-04T11:59:00Z"))  # the counts are those of before
    await controller_of(api).refresh(KEY)
    told = {each["involvedObject"]["name"] for each in api.kind("Event")}
    assert {"early", "late"} <= told


async def test_what_was_looked_at_is_looked_at_again_when_it_has_changed(api: FakeApi) -> None:
    controller = controller_of(api)
    await controller.refresh(KEY)
    version = api.objects["CheckpointPipeline", *KEY]["metadata"]["resourceVersion"]
    controller.changed(*KEY, version)
    assert len(controller.worklist) == 0
    controller.changed(*KEY, "another")
    assert len(controller.worklist) == 1
    await controller.worklist.close()
