"""What a manifest says of its tensors, told from a plan and what its transfer learned: nothing of it is held twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preheat.bundle.manifest import MergedFacts, TensorFacts
from preheat.index import Index
from preheat.plan import Plan

#: Characters of the URIs of checkpoints that were merged; of their versions half as many.
_TOLD = 960


class PlannedFacts(Mapping[str, TensorFacts]):
    """The tensors that a plan brings, tied names left out, each with its checksum where there is one."""

    def __init__(self, plan: Plan, checksums: Mapping[str, int]) -> None:
        self._plan = plan
        self._checksums = checksums

    def __getitem__(self, name: str) -> TensorFacts:
        if name in self._plan.aliases:
            raise KeyError(name)
        tensor = self._plan.index.tensors[name]
        return TensorFacts(tensor.final_dtype, tensor.shape, self._checksums.get(name, None if tensor.size else 0))

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._plan.index.tensors if name not in self._plan.aliases)

    def __len__(self) -> int:
        return len(self._plan.index.tensors) - len(self._plan.aliases)


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
