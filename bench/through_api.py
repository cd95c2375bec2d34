"""Pods through the API server: what a label costs, and what becomes of them while the webhook is replaced."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from api_server import ApiServer
from installation import installed, until_injected
from operator_process import operator, until_ready
from processes import median_of
from programs import program
from results import Figure
from review_load import BURST, said
from sending import Request
from servers import free_port, running
from workload import names, pod, pods_of, post

from cluster.commands import wait_until

PAIRS = 300


def labelled_and_not(api: ApiServer, injection: str) -> Iterator[Figure]:
    """Creations by turns, with the label and without."""
    requests = []
    for namespace, name in islice(names(), PAIRS):
        requests += [_creation(namespace, None), _creation(namespace, name)]
    sent = api.must_send(requests, at_once=1)
    plain, labelled = (1000 * median_of(sent.seconds[i::2]) for i in (0, 1))
    against = f"{labelled:.1f} ms, {plain:.1f} ms without, medians of {PAIRS}"
    yield Figure(f"a pod's label, injection by {injection}", labelled - plain, "ms more", against, "<= 25")


def replaced(api: ApiServer) -> Iterator[Figure]:
    """Hundreds of labelled pods at once; while they are made, one of two replicas leaves and a new one is there."""
    targets, port, ports = api.folder / "targets", free_port(), [free_port() for _ in range(3)]
    first, second, third = (operator(api, "webhook", name=f"webhook-{each}", PREHEAT_PORT=each) for each in ports)
    targets.write_text(f"{ports[0]} {ports[1]}")
    with (
        running([program("server"), "balance", port, targets], port),
        installed(api, port),
        first as leaving,
        second as staying,
        third as coming,
        ThreadPoolExecutor() as threads,
    ):
        for each in (leaving, staying, coming):
            until_ready(each)
        until_injected(api)
        requests = [_creation(*each) for each in islice(names(), BURST)]
        answered = leaving.metric("preheat_admission_reviews_total")
        burst = threads.submit(api.send, requests, at_once=BURST, expect='"initContainers"')
        wait_until("the burst has come", lambda: leaving.metric("preheat_admission_reviews_total") > answered, 60, 0.01)
        targets.write_text(f"{ports[1]} {ports[2]}")
        leaving.popen.send_signal(signal.SIGTERM)
        sent = burst.result()
    what = f"{BURST} labelled pods at once, a replica replaced meanwhile"
    yield Figure(f"{what}, failures", sent.failed, f"of {BURST}", said(sent.failures), "<= 0")
    yield Figure(f"{what}, slowest", sent.slowest, "ms", f"median {sent.p50:.0f} ms")


def _creation(namespace: str, pipeline: str | None) -> Request:
    return post(f"{pods_of(namespace)}?dryRun=All", pod(pipeline))
