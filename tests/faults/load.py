"""Pods that are created without a pause while something fails, and what became of each. Dry runs: nothing is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from faults.installation import Api, Tenant, has_loader, pod
from faults.operator_processes import eventually


@dataclass(frozen=True)
class Outcome:
    """One request to create a pod."""

    began: float
    seconds: float
    labelled: bool
    code: int
    text: str
    loader: bool

    @property
    def created(self) -> bool:
        return self.code == 201


class Load:
    """Threads that create pods; `stop` ends them."""

    def __init__(self, tenant: Tenant, labelled: int, plain: int) -> None:
        self.outcomes: list[Outcome] = []
        self._tenant = tenant
        self._ended = threading.Event()
        kinds = [True] * labelled + [False] * plain
        self._threads = [threading.Thread(target=self._create, args=(kind,), daemon=True) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def refused(self) -> list[Outcome]:
        return [each for each in self.outcomes if each.labelled and not each.created]

    @property
    def unharmed(self) -> bool:
        """Nobody got a pod without its loader, and nobody who asked for none was refused one."""
        return all(each.created and not each.loader if not each.labelled else not each.created or each.loader
                   for each in self.outcomes)  # fmt: skip

    def slowest_plain(self) -> float:
        return max(each.seconds for each in self.outcomes if not each.labelled)

    def goes_on(self, count: int = 20) -> None:
        """Wait until so many further pods were asked for."""
        before = len(self.outcomes)
        eventually(lambda: len(self.outcomes) >= before + count)

    def _create(self, labelled: bool) -> None:
        wanted = pod("", "finetune" if labelled else None)
        wanted["metadata"].update(name=None, generateName="load-")
        with Api(self._tenant.api.kubeconfig) as api:
            while not self._ended.is_set():
                began = time.monotonic()
                answer = api.http.post(self._tenant.pods, json=wanted, params={"dryRun": "All"})
                loader = answer.status_code == 201 and has_loader(answer.json())
                seconds = time.monotonic() - began
                self.outcomes.append(Outcome(began, seconds, labelled, answer.status_code, answer.text, loader))


@contextmanager
def load(tenant: Tenant, labelled: int = 2, plain: int = 1) -> Iterator[Load]:
    """Load for the length of the block."""
    found = Load(tenant, labelled, plain)
    try:
        yield found
    finally:
        found.stop()
