"""An API server in memory, for the controller alone: versions, conflicts, selectors, and failures on demand.

It stands where lightkube's client stands. What it does not know it does not do: the real one is asked in other tests.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Literal

import httpx2
from lightkube import ApiError

Call = tuple[str, str]  # verb and kind
When = Literal["before", "after"]
Object = dict[str, Any]


def refusal(code: int, reason: str, **said: Any) -> ApiError:
    """What lightkube raises when the API server refuses."""
    request = httpx2.Request("GET", "http://api")
    status = {"kind": "Status", "code": code, "reason": reason, "message": reason, **said}
    answer = httpx2.Response(code, json=status, request=request)
    return ApiError(request=request, response=answer)


class FakeApi:
    """Objects by kind, namespace and name."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.calls: list[Call] = []
        #: Raises what the client shall see; `when` is before or after the server has done it.
        self.fail: Callable[[Call, When], None] = lambda _call, _when: None
        self._numbers = itertools.count(1)

    def put(self, kind: str, document: Mapping[str, Any]) -> Object:
        """What another client creates or updates: a changed spec has a new generation."""
        made = copy.deepcopy(dict(document))
        metadata = made["metadata"]
        key = (kind, metadata["namespace"], metadata["name"])
        before = self.objects.get(key)
        metadata["uid"] = before["metadata"]["uid"] if before else f"uid-{next(self._numbers)}"
        generation = before["metadata"]["generation"] if before else 0
        metadata["generation"] = generation + (not before or before.get("spec") != made.get("spec"))
        metadata["resourceVersion"] = str(next(self._numbers))
        self.objects[key] = made
        return made

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.objects.pop((kind, namespace, name), None)

    def kind(self, kind: str) -> list[Object]:
        return [each for (found, _, _), each in sorted(self.objects.items()) if found == kind]

    async def get(self, resource: Any, name: str, *, namespace: str) -> Object:
        kind = resource.__name__
        await self._call("get", kind, "before")
        found = self.objects.get((kind, namespace, name))
        if found is None:
            raise refusal(404, "NotFound")
        await self._call("get", kind, "after")
        return copy.deepcopy(found)

    async def list(
        self, resource: Any, *, namespace: str = "*", labels: Mapping[str, str] | None = None, chunk_size: int = 0
    ) -> AsyncIterator[Object]:
        kind = resource.__name__
        await self._call("list", kind, "before")
        found = [copy.deepcopy(each) for each in self.kind(kind) if namespace in ("*", each["metadata"]["namespace"])]
        await self._call("list", kind, "after")
        for each in found:
            carried = each["metadata"].get("labels") or {}
            if all(carried.get(key) == value for key, value in (labels or {}).items()):
                yield each

    async def create(self, document: Any) -> Object:
        kind = type(document).__name__
        await self._call("create", kind, "before")
        metadata = document["metadata"]
        if (kind, metadata["namespace"], metadata["name"]) in self.objects:
            raise refusal(409, "AlreadyExists")
        made = self.put(kind, json.loads(json.dumps(document)))
        await self._call("create", kind, "after")
        return made

    async def replace(self, document: Any, name: str, *, namespace: str) -> Object:
        """The status of a pipeline, at the version that was read."""
        await self._call("replace", "Status", "before")
        found = self.objects.get(("CheckpointPipeline", namespace, name))
        if found is None:
            raise refusal(404, "NotFound")
        if document["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            raise refusal(409, "Conflict")
        found["status"] = json.loads(json.dumps(document["status"]))
        found["metadata"]["resourceVersion"] = str(next(self._numbers))
        await self._call("replace", "Status", "after")
        return copy.deepcopy(found)

    async def _call(self, verb: str, kind: str, when: When) -> None:
        await asyncio.sleep(0)  # others come to do something
        if when == "before":
            self.calls.append((verb, kind))
        self.fail((verb, kind), when)
