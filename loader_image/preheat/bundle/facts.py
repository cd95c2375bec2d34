"""What a manifest says of its tensors, told from a plan and what its transfer learned: nothing of it is held twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from preheat.bundle.manifest import TensorFacts
from preheat.plan import Plan


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
