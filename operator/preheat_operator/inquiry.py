"""Asks running containers of ours how far they are. It is all that the operator ever sends to a tenant's pod.

One answers at its pod's address, at one port, and is believed as little as a pod's status: what is too long, too slow,
elsewhere or of the wrong kind is no answer. Of a pod that cannot be reached this is not known, and that is all.
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

from preheat_operator.answering import Answer, Question, Round
from preheat_operator.observation import PodReport

EVERY = 10.0  # seconds between two rounds, so also between two writes of a status because of them
PATIENCE = 2.0  # seconds for an answer
HEAD_LIMIT = 2048  # bytes of a line of an answer's head
AT_ONCE = 32
#: Containers that are asked of one pipeline; those of the pods with the first uids.
PER_KEY = 64

_log = structlog.get_logger(__name__)

Key = TypeVar("Key", bound=Hashable)


class Inquiry(Generic[Key, Answer]):
    """Rounds of one question to the pods that it is told of; `news` is called for the keys with another answer."""

    def __init__(
        self,
        question: Question[Answer],
        news: Callable[[Key], None],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._question = question
        self._news = news
        self._clock = clock
        self._pods: dict[Key, Mapping[str, str]] = {}
        self._rounds: dict[Key, Round[Answer]] = {}

    def follow(self, key: Key, pods: Mapping[str, str]) -> None:
        """Ask from now on at these addresses, by the pods' uids; nobody if there are none."""
        if pods:
            self._pods[key] = dict(sorted(pods.items())[:PER_KEY])
        else:
            self._pods.pop(key, None)
            self._rounds.pop(key, None)

    def last(self, key: Key) -> Round[Answer]:
        """The last answers, of those pods that are still asked."""
        found, pods = self._rounds.get(key, Round[Answer]()), self._pods.get(key, {})
        return Round(found.time, {uid: each for uid, each in found.answers.items() if uid in pods})

    async def run(self, every: float = EVERY) -> None:
        """Ask, round after round, until cancelled."""
        async with session_for_pods() as session:
            while True:
                next_round = asyncio.sleep(every)
                await asyncio.gather(self.ask(session, every), next_round)

    async def ask(self, session: aiohttp.ClientSession, patience: float = EVERY) -> None:
        """One round, which ends in time: who has answered before is asked first."""
        wanted = [(key, uid, address) for key, pods in self._pods.items() for uid, address in pods.items()]
        wanted.sort(key=lambda each: each[1] not in self._rounds.get(each[0], Round[Answer]()).answers)
        slots, found = asyncio.Semaphore(AT_ONCE), dict[Key, dict[str, Answer]]()

        async def one(key: Key, uid: str, address: str) -> None:
            async with slots:
                if answer := await answer_of(session, address, self._question, uid):
                    found.setdefault(key, {})[uid] = answer

        tasks = [asyncio.create_task(one(*each)) for each in wanted]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    _log.warning("a pod was not asked", error=repr(result))
        self._keep(found)

    def _keep(self, found: Mapping[Key, Mapping[str, Answer]]) -> None:
        time = self._clock().strftime("%Y-%m-%dT%H:%M:%SZ")
        for key in list(self._pods):
            answers = found.get(key, {})
            if answers != self._rounds.get(key, Round[Answer]()).answers:
                self._rounds[key] = Round(time, answers)
                self._news(key)


async def answer_of(
    session: aiohttp.ClientSession, address: str, question: Question[Answer], uid: str
) -> Answer | None:
    """What the pod at an IP address tells; None when it tells nothing that can be used."""
    host = f"[{address}]" if ":" in address else address
    with suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError):
        url = f"http://{host}:{question.port}{question.path(uid)}"
        async with session.get(url, allow_redirects=False) as answer:
            pieces = answer.content.iter_chunked(question.limit)
            body = await _body(pieces, question.limit) if answer.status == 200 else b""
            return question.read(json.loads(body)) if body else None
    return None


async def _body(pieces: Any, limit: int) -> bytes:
    """All of it, or nothing when it is too long."""
    body = b""
    async for piece in pieces:
        body += piece
        if len(body) > limit:
            return b""
    return body


def session_for_pods(patience: float = PATIENCE) -> aiohttp.ClientSession:
    """A client that remembers nothing, unpacks nothing, and knows no proxy."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=AT_ONCE, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=patience),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=HEAD_LIMIT,
        max_line_size=HEAD_LIMIT,
        max_field_size=HEAD_LIMIT,
    )


def askable(pods: Iterable[PodReport]) -> dict[str, str]:
    """Where to ask loaders, by uid, of pods' reports."""
    return {pod.uid: pod.address for pod in pods if pod.phase == "loading" and pod.address}
