"""Reviews straight to an admission server, as the API server would send them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle, islice

from api_server import ApiServer
from operator_process import OperatorProcess
from results import Figure
from sending import Request, Server, send
from workload import names, pod, pods_of, post, review

RATE, BURST = 100, 500
TIMEOUT_MS = 5_000  # of the chart's webhook configuration


def at_rate_and_at_once(
    who: str, api: ApiServer, process: OperatorProcess, server: Server, seconds: int, *, goals: bool = False
) -> Iterator[Figure]:
    """Every pipeline is asked for in turn: no server has an easy first second."""
    reviews, before = list(_reviews(api, RATE * seconds)), process.processor
    steady = send(server, reviews, api.folder, rate=RATE, expect='"patch"')
    used = (process.processor - before) / seconds
    burst = send(server, reviews[:BURST], api.folder, at_once=BURST, expect='"patch"')
    rate, at_once = f"{who}, {RATE} reviews a second", f"{who}, {BURST} reviews at once"
    costs = f"{used:.0%} of a core, the sender {steady.processor / seconds:.0%}"
    limit, none = (f"<= {TIMEOUT_MS}", "<= 0") if goals else (None, None)
    yield Figure(f"{rate}, p50", steady.p50, "ms", costs)
    yield Figure(f"{rate}, p99", steady.p99, "ms", f"slowest {steady.slowest:.0f} ms", "<= 25" if goals else None)
    yield Figure(f"{rate}, failures", steady.failed, f"of {len(reviews):,}", said(steady.failures), none)
    yield Figure(f"{at_once}, slowest", burst.slowest, "ms", f"median {burst.p50:.0f} ms, connections included", limit)
    yield Figure(f"{at_once}, failures", burst.failed, f"of {BURST}", said(burst.failures), none)
    yield Figure(f"{who}, memory", process.peak, "MiB at most")


def said(failures: Mapping[str, int]) -> str:
    """Failures for a table."""
    return "; ".join(f"{count} x {text}" for text, count in failures.items())


def _reviews(api: ApiServer, count: int) -> Iterator[Request]:
    """Reviews of a pod as the API server hands it on: with defaults, a token's volume and who wrote which field."""
    (first, _), *_ = names()
    made = api.post(f"{pods_of(first)}?dryRun=All", pod())
    for i, (namespace, name) in enumerate(islice(cycle(names()), count)):
        labels = pod(name)["metadata"]["labels"]
        asked = {**made, "metadata": {**made["metadata"], "namespace": namespace, "labels": labels}}
        yield post("/inject", review(f"review-{i}", namespace, asked))
