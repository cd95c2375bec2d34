"""Which checkpoints an index was merged from, and which tensor is whose: for manifests, reports and messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preheat.bundle.manifest import MergedFacts
from preheat.index import Index

#: Characters of the URIs of checkpoints that were merged; of their versions half as many.
_TOLD = 960


class Origins(Mapping[str, int]):
    """Which of an index's `origins` each tensor is from; of nothing where it was not merged."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __getitem__(self, name: str) -> int:
        if not self._index.origins:
            raise KeyError(name)
        return self._index.origin_of(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.tensors if self._index.origins else ())

    def __len__(self) -> int:
        return len(self._index.tensors) if self._index.origins else 0


def told_of(merged: Sequence[MergedFacts]) -> dict[str, Any]:
    """What a termination message says of checkpoints that were merged, in the room that Kubernetes leaves it."""
    room = _TOLD // max(len(merged), 1)
    said = [{"uri": _end(m.uri, room), "version": m.version[: room // 2], "tensors": m.tensors} for m in merged]
    return {"merged": said} if merged else {}


def _end(uri: str, room: int) -> str:
    """The part in which URIs differ."""
    return uri if len(uri) <= room else f"...{uri[3 - room :]}"


def merged_facts(index: Index) -> tuple[MergedFacts, ...]:
    """What an index was merged from, if it was, and how many of its tensors are from each."""
    counts = Counter(Origins(index).values())
    return tuple(
        MergedFacts(each.uri, each.version, each.size, each.format, each.layout, counts[number])
        for number, each in enumerate(index.origins)
    )
