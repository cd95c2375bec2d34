"""`make bench-scale`: the operator's processes with 1,000 pipelines and 10,000 pods on a real API server.

There are no nodes: pods are bound to some that do not exist, and what their kubelets would report is written here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from api_server import ApiServer, versions
from installation import installed
from nodes import end_checks, run_pods
from operator_bench import filled_server, options_of
from operator_process import OperatorProcess, operator, until_ready
from results import Figure, conclude
from servers import free_port
from workload import API, PIPELINES

from cluster.commands import say, wait_until

PART = "operator"
PODS = 10  # of each pipeline
LONGEST = 300.0  # seconds
QUIET = 10.0


def main(words: Sequence[str] | None = None) -> None:
    """Measure; exit 1 when a goal is missed."""
    options = options_of(words, "make bench-scale", __doc__, (60, "of the steady state"))
    with filled_server() as api:
        say(f"making {PIPELINES * PODS:,} pods")
        run_pods(api, PODS)
        figures = list(_measured(api, options.seconds))
    title = f"1,000 pipelines and {PIPELINES * PODS:,} pods (command: make bench-scale)"
    conclude({PART: figures}, title, versions(), docs=options.docs)


def _measured(api: ApiServer, seconds: int) -> Iterator[Figure]:
    port = free_port()
    with installed(api, port):
        with operator(api, "controller") as controller, operator(api, "webhook", PREHEAT_PORT=port) as webhook:
            say("first start")
            yield from _first_start(api, controller, webhook)
            say("ending the checks of the sources")
            end_checks(api)
            wait_until("every check is in its status", lambda: _ready(api, "check"), LONGEST, 2)
            _settle(controller)
            say("steady state")
            yield from _steady(controller, webhook, seconds)
        with operator(api, "controller") as controller:
            say("restart")
            yield from _restart(controller)


def _first_start(api: ApiServer, controller: OperatorProcess, webhook: OperatorProcess) -> Iterator[Figure]:
    began = time.monotonic()
    until_ready(webhook)
    ready = time.monotonic() - began
    wait_until("every status is written", lambda: _writes(controller) >= PIPELINES, LONGEST, 0.5)
    took = time.monotonic() - began
    if not _ready(api, "pods"):
        raise RuntimeError("not every pod is in its pipeline's status")
    yield Figure("start, every status written", took, "s", f"{controller.processor:.1f} s of a core", "<= 60")
    yield Figure("start, webhook ready", ready, "s", f"{webhook.processor:.1f} s of a core")


def _steady(controller: OperatorProcess, webhook: OperatorProcess, seconds: int) -> Iterator[Figure]:
    processes = {"controller": controller, "webhook": webhook}
    before, writes = {name: each.processor for name, each in processes.items()}, _writes(controller)
    time.sleep(seconds)
    for name, each in processes.items():
        used = 100 * (each.processor - before[name]) / seconds
        yield Figure(f"steady state, {name}", used, "% of a core", f"over {seconds} s", "<= 1")
    yield Figure("steady state, status writes", _writes(controller) - writes, "", f"over {seconds} s", "<= 0")
    for name, each in processes.items():
        yield Figure(f"memory, {name}", each.peak, "MiB at most", f"{each.resident:.0f} MiB in the end", "<= 400")


def _restart(controller: OperatorProcess) -> Iterator[Figure]:
    until_ready(controller)
    took = _settle(controller) - controller.began
    yield Figure("restart, status writes", _writes(controller), "", "", "<= 0")
    costs = f"{controller.processor:.1f} s of a core"
    yield Figure("restart, until nothing waits for a look", took, "s", costs, "<= 60")
    yield Figure("restart, memory", controller.peak, "MiB at most", "", "<= 400")


def _settle(controller: OperatorProcess) -> float:
    """Wait until nothing has waited for a look for a while; returns since when."""
    since = time.monotonic()
    while time.monotonic() - since < QUIET:
        time.sleep(0.5)
        if controller.metric("preheat_pipelines_waiting"):
            since = time.monotonic()
    return since


def _writes(controller: OperatorProcess) -> float:
    return controller.metric("preheat_status_writes_total") if controller.ready() else 0


def _ready(api: ApiServer, by: str) -> bool:
    """Whether every status tells of all pods, and of the check."""
    statuses = [each.get("status") or {} for each in api.listed(f"{API}/checkpointpipelines")]
    if by == "check":
        return all(status.get("check", {}).get("version") for status in statuses)
    return all(status.get("pods", {}).get("loaded") == PODS for status in statuses)


if __name__ == "__main__":
    main()
