"""What happens to labelled pods, seen or not, leads to a look at their pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from listed_and_watched import ApiServer, serving, until

from preheat_operator.follower import Pace
from preheat_operator.labelled_pods import PATH, LabelledPods

PACE = Pace(watch=1, silence=0.5, stale=60, first_delay=0.01, last_delay=0.05)
LABEL = "preheat.dev/pipeline"


def pod(name: str, pipeline: str = "finetune") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "team-a", "labels": {LABEL: pipeline}}}


class Following:
    """Pods that are followed, and the pipelines that were to be looked at."""

    def __init__(self, server: ApiServer, pods: LabelledPods, looked: list[tuple[str, str]]) -> None:
        self.server, self.pods, self.looked = server, pods, looked

    async def looks(self) -> set[tuple[str, str]]:
        """What was to be looked at since the last time, once there was something."""
        await until(lambda: self.looked)
        found = set(self.looked)
        self.looked.clear()
        return found


@pytest.fixture
async def following() -> AsyncIterator[Following]:
    looked: list[tuple[str, str]] = []
    async with serving(PATH) as (server, http):
        server.put(pod("first"))
        pods = LabelledPods(http, lambda *key: looked.append(key), PACE)
        task = asyncio.create_task(pods.run())
        await pods.listed()
        await until(lambda: server.watches)
        yield Following(server, pods, looked)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_what_exists_what_changes_and_what_is_deleted_is_looked_at(following: Following) -> None:
    assert await following.looks() == {("team-a", "finetune")}
    following.server.put(pod("second", "other"))
    assert await following.looks() == {("team-a", "other")}
    following.server.put(pod("second", "other"))
    assert await following.looks() == {("team-a", "other")}
    following.server.delete("first")
    assert await following.looks() == {("team-a", "finetune")}


async def test_a_pod_that_is_moved_is_news_for_both_pipelines(following: Following) -> None:
    await following.looks()
    following.server.put(pod("first", "other"))
    assert await following.looks() == {("team-a", "finetune"), ("team-a", "other")}


async def test_a_pod_that_was_deleted_while_nobody_watched_is_looked_at(following: Following) -> None:
    await following.looks()
    following.server.put(pod("stays", "other"))
    await following.looks()
    following.server.delete("first", told=False)
    following.server.send({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    assert await following.looks() == {("team-a", "finetune")}


async def test_no_pod_at_all_is_no_trouble(following: Following) -> None:
    await following.looks()
    following.server.delete("first")
    await following.looks()
    following.server.send({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
    await until(lambda: following.server.lists == 2 and following.server.watches)


async def test_nothing_but_the_metadata_of_labelled_pods_is_asked_for(following: Following) -> None:
    assert {selector for _, selector in following.server.asked} == {LABEL}
    kinds = [accept.partition(";as=")[2].partition(";")[0] for accept, _ in following.server.asked[:2]]
    assert kinds == ["PartialObjectMetadataList", "PartialObjectMetadata"]
