"""The same faults with the patience that the processes really have: minutes, for `make test-faults` alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.fault_proxy import FaultProxy
from faults.installation import Installation, Tenant, has_loader, pod
from faults.operator_processes import Operator, eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not os.environ.get("PREHEAT_SLOW"), reason="minutes of waiting: make test-faults"),
]
NOT_FOUND = {"outcome": "failed", "reason": "NotFound", "message": "404 for a.ckpt", "remedy": "Check the URL"}


class Both:
    """Controller and webhook, each behind a proxy, and started again when they end, as a kubelet would."""

    def __init__(self, installation: Installation, ways: dict[str, tuple[FaultProxy, Path]], folder: Path) -> None:
        self.proxies = [proxy for proxy, _ in ways.values()]
        self._settings = {**installation.settings, "check": "false"}
        self._ways, self._folder = ways, folder
        self.processes = {role: self._start(role) for role in ways}
        eventually(self.ready, 60)

    def ready(self) -> bool:
        return all(each.get("/readyz") == "ok" for each in self.processes.values())

    def supervise(self) -> None:
        for role, process in self.processes.items():
            if not process.process.is_alive():
                self.processes[role] = self._start(role)

    def end(self) -> None:
        for process in self.processes.values():
            process.end()

    def _start(self, role: str) -> Operator:
        return Operator(role, self._ways[role][1], self._folder / role, **self._settings)


@contextmanager
def both(installation: Installation, folder: Path) -> Iterator[Both]:
    with installation.proxied("controller") as controller, installation.proxied("webhook") as webhook:
        running = Both(installation, {"controller": controller, "webhook": webhook}, folder)
        installation.endpoints(running.processes["webhook"].port)
        try:
            yield running
        finally:
            running.end()


def injected(tenant: Tenant, name: str) -> bool:
    answer = tenant.api.http.post(tenant.pods, json=pod("x", name), params={"dryRun": "All"})
    return answer.status_code == 201 and has_loader(answer.json())


def converged(tenant: Tenant) -> bool:
    return tenant.condition().get("reason") == "NotFound" and injected(tenant, "missed")


def test_connections_that_went_silent_are_seen_through_within_75_seconds(installation, tenant, tmp_path) -> None:
    tenant.pipeline()
    tenant.injected_pod("a")
    with both(installation, tmp_path) as running:
        eventually(lambda: tenant.counts().get("loading") == 1 and injected(tenant, "finetune"))
        for proxy in running.proxies:
            proxy.freeze()
        tenant.report("a", 11, NOT_FOUND)
        tenant.pipeline("missed")
        eventually(lambda: converged(tenant), 75)


@pytest.mark.parametrize("seconds", [5, 60])
def test_an_api_server_that_was_away_is_found_again(installation, tenant, tmp_path, seconds: int) -> None:
    """Ten minutes are no more than one: it then waits as it does from its first second on."""
    tenant.pipeline()
    tenant.injected_pod("a")
    with both(installation, tmp_path) as running:
        eventually(lambda: tenant.counts().get("loading") == 1 and injected(tenant, "finetune"))
        for proxy in running.proxies:
            proxy.refuse()
        ends = time.monotonic() + seconds
        tenant.report("a", 11, NOT_FOUND)
        tenant.pipeline("missed")

        def over() -> bool:
            running.supervise()
            return time.monotonic() > ends

        eventually(over, seconds + 10)
        assert injected(tenant, "finetune")
        for proxy in running.proxies:
            proxy.open()

        def found() -> bool:
            running.supervise()
            return converged(tenant)

        eventually(found, 45)
        eventually(running.ready)
