"""What is to be known of every object of one kind: one list, then watches.

Any trouble leads to a new list that *replaces* what was known, so an object that was deleted while nobody watched does
not live on. A connection that went silent is noticed: every watch ends itself in time.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2
import structlog

_log = structlog.get_logger(__name__)

Key = tuple[str, str]  # namespace and name
Kept = TypeVar("Kept")
#: Seconds: what is shorter and brought nothing was no watch.
_WATCHED = 1.0
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


@dataclass(frozen=True)
class Pace:
    """How long a follower waits, in seconds."""

    watch: int = 45  # after which the API server ends a watch
    silence: float = 55  # after which a connection counts as dead
    stale: float = 120  # after which what is known is no longer trusted
    first_delay: float = 0.25  # before listing again; doubles up to the last
    last_delay: float = 10


class WatchError(Exception):
    """The API server refused a list or a watch, or ended one: with 410 it no longer knows the version to go on from."""


class Follower(ABC, Generic[Kept]):
    """What is kept of each object, by namespace and name. `run` keeps it current; everything else only reads."""

    #: What the objects are called.
    plural = "objects"

    def __init__(
        self,
        http: httpx2.AsyncClient,
        path: str,
        pace: Pace | None = None,
        *,
        selector: str | None = None,
        fields: str | None = None,
        metadata_only: bool = False,
    ) -> None:
        self._http = http
        self._path = path
        chosen = {"labelSelector": selector, "fieldSelector": fields}
        self._query = {name: value for name, value in chosen.items() if value}
        self._accept = _METADATA if metadata_only else "application/json"
        self._pace = pace or Pace()
        self._entries: dict[Key, Kept] = {}
        self._changed = asyncio.Event()
        self._heard: float | None = None
        self._delay = self._pace.first_delay

    @abstractmethod
    def keep(self, resource: Mapping[str, Any], known: Kept | None) -> Kept:
        """What to keep of an object of which `known` was kept before."""

    def noticed(self, key: Key, before: Kept | None, after: Kept | None) -> None:
        """What is kept of an object has changed; None is kept of one that does not exist."""

    @property
    def synced(self) -> bool:
        """Whether everything was listed once."""
        return self._heard is not None

    @property
    def age(self) -> float:
        """Seconds since the API server was last heard; infinite before the first list."""
        return float("inf") if self._heard is None else time.monotonic() - self._heard

    @property
    def problem(self) -> str | None:
        """Why this should not be asked, or None."""
        if not self.synced:
            return f"the {self.plural} have not been listed yet"
        if self.age > self._pace.stale:
            return f"the API server has been silent for {self.age:.0f} s"
        return None

    def get(self, namespace: str, name: str) -> Kept | None:
        """What is kept of an object, or None when it is not known now."""
        return self._entries.get((namespace, name))

    async def listed(self) -> None:
        """Wait until everything was listed once."""
        while not self.synced:
            await self._changed.wait()

    async def run(self) -> None:
        """Follow the API server until cancelled."""
        while True:
            try:
                version = await self._list()
                while True:
                    version = await self._watch(version)
            except (httpx2.HTTPError, httpx2.StreamError, WatchError, ValueError, KeyError) as error:
                _log.warning("listed anew", what=self.plural, why=_reason(error), seconds=self._delay)
            await asyncio.sleep(self._delay * random.uniform(0.5, 1))  # noqa: S311 spreads replicas, hides nothing
            self._delay = min(2 * self._delay, self._pace.last_delay)

    async def _list(self) -> str:
        """Replace what is known by what is; returns the version to watch from."""
        found: dict[Key, Kept] = {}
        query = {"limit": "500", **self._query}
        while True:
            answer = await self._http.get(self._path, params=query, headers={"Accept": self._accept.format("List")})
            await _refusal(answer)
            page = answer.json()
            found |= self._kept(page["items"] or ())  # null where there is nothing but metadata to list, and none
            if not (rest := page["metadata"].get("continue")):
                break
            query["continue"] = rest
        self._replace(found)
        return str(page["metadata"]["resourceVersion"])

    def _kept(self, items: Iterable[Mapping[str, Any]]) -> dict[Key, Kept]:
        return {_key(each): self.keep(each, self._entries.get(_key(each))) for each in items}

    def _replace(self, found: dict[Key, Kept]) -> None:
        before, self._entries = self._entries, found
        self._wake()
        for key in before.keys() | found.keys():
            self._notice(key, before.get(key), found.get(key))

    async def _watch(self, version: str) -> str:
        """Follow changes until the API server ends the watch; returns the version to go on from."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._pace.watch),
            **self._query,
        }
        timeout = httpx2.Timeout(10, read=self._pace.silence)
        began, heard = time.monotonic(), False
        how: dict[str, Any] = {"headers": {"Accept": self._accept.format("")}, "timeout": timeout}
        async with self._http.stream("GET", self._path, params=query, **how) as answer:
            await _refusal(answer)
            async for line in _lines(answer.aiter_bytes()):
                version, heard = self._apply(json.loads(line)), True
                self._delay = self._pace.first_delay
        if not heard and time.monotonic() - began < _WATCHED:
            raise WatchError("a watch ended as soon as it had begun")
        self._heard = time.monotonic()
        self._delay = self._pace.first_delay
        return version

    def _apply(self, event: Mapping[str, Any]) -> str:
        kind, resource = event["type"], event["object"]
        if kind == "ERROR":
            raise WatchError(f"{resource.get('code')} {resource.get('message')}")
        if kind != "BOOKMARK":
            key = _key(resource)
            before, after = self._entries.pop(key, None), None
            if kind != "DELETED":
                after = self._entries[key] = self.keep(resource, before)
            self._notice(key, before, after)
        self._wake()
        return str(resource["metadata"]["resourceVersion"])

    def _notice(self, key: Key, before: Kept | None, after: Kept | None) -> None:
        if before != after:
            self.noticed(key, before, after)

    def _wake(self) -> None:
        self._heard = time.monotonic()
        self._changed.set()
        self._changed = asyncio.Event()


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines as the API server ends them; a resource's text may hold what Unicode calls the end of a line."""
    rest: list[bytes] = []
    async for piece in pieces:
        *complete, last = piece.split(b"\n")
        for line in complete:
            yield b"".join((*rest, line))
            rest.clear()
        rest.append(last)


def _key(resource: Mapping[str, Any]) -> Key:
    return resource["metadata"]["namespace"], resource["metadata"]["name"]


async def _refusal(answer: httpx2.Response) -> None:
    """Raise what the API server said, which names the right that is missing, where a status is all but its number."""
    if answer.is_error:
        said = json.loads(await answer.aread() or b"null")
        message = said.get("message") if isinstance(said, dict) else None
        raise WatchError(f"{answer.status_code} {message or answer.reason_phrase}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
