from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from listed_and_watched import ApiServer, serving, until

from preheat.errors import CheckpointConfigError
from preheat_operator.admission import listed
from preheat_operator.cache import PATH, PipelineCache
from preheat_operator.follower import Pace

PACE = Pace(watch=1, silence=0.5, stale=60, first_delay=0.01, last_delay=0.05)


def resource(name: str, namespace: str = "team-a", generation: int = 1) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": generation}
    return {"metadata": metadata, "spec": {"stages": [{"s3": {"bucket": "b", "key": f"{name}.ckpt"}}]}}


@pytest.fixture
async def api() -> AsyncIterator[tuple[ApiServer, httpx2.AsyncClient]]:
    async with serving(PATH) as both:
        yield both


@pytest.fixture
async def server(api: tuple[ApiServer, httpx2.AsyncClient]) -> ApiServer:
    return api[0]


@pytest.fixture
async def cache(api: tuple[ApiServer, httpx2.AsyncClient]) -> AsyncIterator[PipelineCache]:
    cache = PipelineCache(api[1], PACE)
    task = asyncio.create_task(cache.run())
    yield cache
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def watching(cache: PipelineCache, server: ApiServer) -> None:
    await until(lambda: cache.synced and server.watches)


async def test_what_exists_is_listed_page_by_page(server: ApiServer, cache: PipelineCache) -> None:
    server.page = 2
    for name in "abcde":
        server.put(resource(name))
    await watching(cache, server)
    assert cache.names("team-a") == list("abcde")
    assert cache.names("team-b") == []


async def test_before_the_first_list_the_cache_says_so(server: ApiServer, cache: PipelineCache) -> None:
    server.failing = True
    assert cache.problem == "the pipelines have not been listed yet"
    server.failing = False
    await until(lambda: cache.problem is None)


async def test_a_text_with_a_line_end_of_unicode_does_not_break_the_watch(
    server: ApiServer, cache: PipelineCache
) -> None:
    await watching(cache, server)
    odd = resource("odd")
    odd["metadata"]["annotations"] = {"note": "one\x85two\u2028three"}  # Go writes the first as it is
    server.put(odd)
    await until(lambda: cache.get("team-a", "odd"))
    assert server.lists == 1


async def test_changes_arrive(server: ApiServer, cache: PipelineCache) -> None:
    await watching(cache, server)
    server.put(resource("finetune"))
    await until(lambda: cache.get("team-a", "finetune"))
    server.put(resource("finetune", generation=2))
    await until(lambda: cache.get("team-a", "finetune").pipeline.generation == 2)
    server.delete("finetune")
    await until(lambda: cache.get("team-a", "finetune") is None)


async def test_a_pipeline_deleted_while_nobody_watched_does_not_live_on(
    server: ApiServer, cache: PipelineCache
) -> None:
    server.put(resource("ghost"))
    await watching(cache, server)
    await until(lambda: cache.get("team-a", "ghost"))
    server.delete("ghost", told=False)
    server.send({"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}})
    await until(lambda: cache.get("team-a", "ghost") is None)
    assert server.lists == 2


async def test_a_watch_that_ends_is_taken_up_where_it_ended(server: ApiServer, cache: PipelineCache) -> None:
    await watching(cache, server)
    server.put(resource("finetune"))
    server.send({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "99"}}})
    server.send(None)
    await until(lambda: len(server.from_versions) == 2)
    assert server.from_versions[1] == "99"
    assert server.lists == 1


async def test_watches_that_end_at_once_are_not_begun_without_a_pause(
    api: tuple[ApiServer, httpx2.AsyncClient],
) -> None:
    server, http = api
    server.hasty = True
    cache = PipelineCache(http, Pace(first_delay=0.05, last_delay=5))
    task = asyncio.create_task(cache.run())
    await until(lambda: cache.synced)
    began = time.monotonic()
    await until(lambda: len(server.from_versions) >= 4)
    assert time.monotonic() - began > 0.1
    task.cancel()


async def test_a_connection_that_went_silent_is_noticed(server: ApiServer, cache: PipelineCache) -> None:
    await watching(cache, server)
    server.put(resource("missed"), told=False)  # the event never arrives, and nothing closes
    await until(lambda: cache.get("team-a", "missed"))


async def test_an_api_server_that_is_away_keeps_what_is_known_and_is_found_again(
    server: ApiServer, cache: PipelineCache
) -> None:
    server.put(resource("finetune"))
    await watching(cache, server)
    server.failing = True
    server.send(None)
    await until(lambda: not server.watches)
    assert cache.get("team-a", "finetune")
    server.put(resource("second"))
    server.failing = False
    await until(lambda: cache.get("team-a", "second"))


@pytest.mark.parametrize("event", [{"type": "ADDED"}, {"type": "ADDED", "object": {"metadata": {}}}])
async def test_a_broken_event_leads_to_a_new_list(server: ApiServer, cache: PipelineCache, event: Any) -> None:
    await watching(cache, server)
    server.put(resource("finetune"), told=False)
    server.send(event)
    await until(lambda: cache.get("team-a", "finetune"))


async def test_a_pod_waits_a_moment_for_a_pipeline_that_is_on_its_way(server: ApiServer, cache: PipelineCache) -> None:
    await watching(cache, server)
    waiting = asyncio.create_task(cache.find("team-a", "finetune", patience=5))
    await asyncio.sleep(0)
    server.put(resource("other"))
    server.put(resource("finetune"))
    found = await waiting
    assert found is not None
    assert found.pipeline.name == "finetune"


async def test_the_wait_ends(server: ApiServer, cache: PipelineCache) -> None:
    await watching(cache, server)
    assert await cache.find("team-a", "finetune", patience=0.02) is None


async def test_silence_beyond_trust_is_a_problem(api: tuple[ApiServer, httpx2.AsyncClient]) -> None:
    cache = PipelineCache(api[1], Pace(first_delay=0.01, stale=0.05))
    task = asyncio.create_task(cache.run())
    await until(lambda: "silent for" in (cache.problem or ""))
    task.cancel()


async def test_a_status_that_changes_does_not_have_the_spec_parsed_again(
    server: ApiServer, cache: PipelineCache
) -> None:
    server.put(resource("finetune"))
    await watching(cache, server)
    before = cache.get("team-a", "finetune")
    parsed, found = before.pipeline, {"time": "t", "uri": "s3://b/k", "version": "etag:1"}
    assert before.pin is None
    server.put({**resource("finetune"), "status": {"observedGeneration": parsed.generation, "check": found}})
    server.put(resource("later"))
    await until(lambda: cache.get("team-a", "later"))
    after = cache.get("team-a", "finetune")
    assert after.pipeline is parsed
    assert after.pin == {"uri": "s3://b/k", "version": "etag:1"}


async def test_a_spec_that_cannot_be_used_harms_only_itself(server: ApiServer, cache: PipelineCache) -> None:
    broken = resource("broken")
    broken["spec"] = {"stages": []}
    server.put(broken)
    server.put(resource("finetune"))
    await watching(cache, server)
    assert cache.get("team-a", "finetune").pipeline.name == "finetune"
    with pytest.raises(CheckpointConfigError):
        _ = cache.get("team-a", "broken").pipeline


def test_long_lists_of_names_are_cut() -> None:
    assert listed(f"p{i}" for i in range(12)) == "p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 and 2 more"
