"""Asks running loaders how far they are. It is all that the operator ever sends to a tenant's pod.

A loader answers at its pod's address, at one port, and is believed as little as a pod's status: what is too long, too
slow, elsewhere or of the wrong kind is no answer. A pod that cannot be reached is without progress, and that is all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import aiohttp
import structlog

from preheat_operator.loader_container import PROGRESS_PORT
from preheat_operator.observation import PodReport
from preheat_operator.progress import Progress, Round

PATH = "/progress"
EVERY = 10.0  # seconds between two rounds, so also between two writes of a status because of them
PATIENCE = 2.0  # seconds for an answer
ANSWER_LIMIT = 2048  # bytes of a body; of a line of the head, too
AT_ONCE = 32
#: Loaders that are asked of one pipeline; those with the first names.
PER_KEY = 64

_log = structlog.get_logger(__name__)

Key = TypeVar("Key", bound=Hashable)


class Inquiry(Generic[Key]):
    """Rounds of questions to the loaders that it is told of; `news` is called for the keys with another answer."""

    def __init__(
        self,
        news: Callable[[Key], None],
        *,
        port: int = PROGRESS_PORT,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._news = news
        self._port = port
        self._clock = clock
        self._pods: dict[Key, Mapping[str, str]] = {}
        self._rounds: dict[Key, Round] = {}

    def follow(self, key: Key, pods: Mapping[str, str]) -> None:
        """Ask from now on at these addresses, by the pods' uids; nobody if there are none."""
        if pods:
            self._pods[key] = dict(sorted(pods.items())[:PER_KEY])
        else:
            self._pods.pop(key, None)
            self._rounds.pop(key, None)

    def last(self, key: Key) -> Round:
        """The last answers, of those loaders that are still asked."""
        found, pods = self._rounds.get(key, Round()), self._pods.get(key, {})
        return Round(found.time, {uid: each for uid, each in found.answers.items() if uid in pods})

    async def run(self, every: float = EVERY) -> None:
        """Ask, round after round, until cancelled."""
        async with session_for_loaders() as session:
            while True:
                next_round = asyncio.sleep(every)
                await asyncio.gather(self.ask(session, every), next_round)

    async def ask(self, session: aiohttp.ClientSession, patience: float = EVERY) -> None:
        """One round, which ends in time: who has answered before is asked first."""
        wanted = [(key, uid, address) for key, pods in self._pods.items() for uid, address in pods.items()]
        wanted.sort(key=lambda each: each[1] not in self._rounds.get(each[0], Round()).answers)
        slots, found = asyncio.Semaphore(AT_ONCE), dict[Key, dict[str, Progress]]()

        async def one(key: Key, uid: str, address: str) -> None:
            async with slots:
                if answer := await answer_of(session, address, self._port):
                    found.setdefault(key, {})[uid] = answer

        tasks = [asyncio.create_task(one(*each)) for each in wanted]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    _log.warning("a loader was not asked", error=repr(result))
        self._keep(found)

    def _keep(self, found: Mapping[Key, Mapping[str, Progress]]) -> None:
        time = self._clock().strftime("%Y-%m-%dT%H:%M:%SZ")
        for key in list(self._pods):
            answers = found.get(key, {})
            if answers != self._rounds.get(key, Round()).answers:
                self._rounds[key] = Round(time, answers)
                self._news(key)


async def answer_of(session: aiohttp.ClientSession, address: str, port: int = PROGRESS_PORT) -> Progress | None:
    """What the loader at an IP address tells; None when it tells nothing that can be used."""
    host = f"[{address}]" if ":" in address else address
    with suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError):
        async with session.get(f"http://{host}:{port}{PATH}", allow_redirects=False) as answer:
            body = await _body(answer.content.iter_chunked(ANSWER_LIMIT)) if answer.status == 200 else b""
            return Progress.of(json.loads(body)) if body else None
    return None


async def _body(pieces: Any) -> bytes:
    """All of it, or nothing when it is too long."""
    body = b""
    async for piece in pieces:
        body += piece
        if len(body) > ANSWER_LIMIT:
            return b""
    return body


def session_for_loaders(patience: float = PATIENCE) -> aiohttp.ClientSession:
    """A client that remembers nothing, unpacks nothing, and knows no proxy."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=AT_ONCE, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=patience),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=ANSWER_LIMIT,
        max_line_size=ANSWER_LIMIT,
        max_field_size=ANSWER_LIMIT,
    )


def askable(pods: Iterable[PodReport]) -> dict[str, str]:
    """Where to ask, by uid, of pods' reports."""
    return {pod.uid: pod.address for pod in pods if pod.phase == "loading" and pod.address}
