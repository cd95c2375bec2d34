"""A whole object of 2 GiB: the loader, which checks every byte it publishes, beside programs that only copy."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from checkpoints import WHOLE
from loader import CRC_ONLY, LoaderRuns, over_http, over_s3
from peers import HERE, Peer, http_peers, python, s3_peers
from processes import Run, RunError, measure, peak, rotate, seconds, spread, touch_memory
from results import Figure
from servers import BUCKET

PREHEAT = "Preheat"
FLOOR = "receive and write alone"
OUTPUT = 2200 << 20  # bytes that every contender writes, and some

Goals = dict[str, str]
Chosen = Callable[[Peer], bool]


def plain(runs: LoaderRuns, endpoint: str, repetitions: int, chosen: Chosen) -> list[Figure]:
    """S3 on loopback."""
    goals = {
        "the fastest that verifies": ">= 1.7",
        "the fastest that does not": ">= 0.95",
        "boto3 default": ">= 3.5",
        "memory": "<= 96",
    }
    signed = measure([python(), HERE / "presign.py", endpoint, BUCKET, WHOLE]).output.strip()
    return _s3("S3", runs, endpoint, repetitions, chosen, goals, floor=signed)


def shaped(runs: LoaderRuns, endpoint: str, repetitions: int, chosen: Chosen) -> list[Figure]:
    """S3 that is far away."""
    goals = {"the fastest default": ">= 1.3", "the fastest tuned": ">= 0.95", "memory": "<= 96"}
    return _s3("S3 at 30 ms and 90 MB/s", runs, endpoint, repetitions, chosen, goals)


def tls(runs: LoaderRuns, endpoint: str, authority: Path, repetitions: int, chosen: Chosen) -> list[Figure]:
    """S3 behind TLS."""
    goals = {"s5cmd default": ">= 0.9", "boto3 default": ">= 2.5", "memory": "<= 96"}
    trusted = {"caBundle": authority.read_text()}
    return _s3("S3 with TLS", runs, endpoint, repetitions, chosen, goals, trusted)


def http(runs: LoaderRuns, url: str, repetitions: int, chosen: Chosen) -> list[Figure]:
    """A web server, which answers requests of S3 as well when nobody asks it for checksums or signatures."""
    output = runs.volume.parent / "peer"
    goals = {"the fastest that does not": ">= 0.95", "boto3 default": ">= 3.5", "memory": "<= 64"}
    copying = [peer for peer in s3_peers(url, BUCKET, WHOLE, output) if chosen(peer) and not peer.verifies]
    peers = [*copying, *http_peers(url, WHOLE, output), _floor(f"{url}/{WHOLE}", output)]
    return _compare("HTTP", runs, over_http(url, WHOLE), peers, output, repetitions, goals)


def _s3(
    place: str,
    runs: LoaderRuns,
    endpoint: str,
    repetitions: int,
    chosen: Chosen,
    goals: Goals,
    options: dict[str, Any] | None = None,
    floor: str | None = None,
) -> list[Figure]:
    output = runs.volume.parent / "peer"
    source = over_s3(endpoint, WHOLE)
    source["s3"] |= options or {}
    peers = [peer for peer in s3_peers(endpoint, BUCKET, WHOLE, output) if chosen(peer)]
    peers += [_floor(floor, output)] if floor else []
    return _compare(place, runs, source, peers, output, repetitions, goals)


def _floor(url: str, output: Path) -> Peer:
    """No client, but what none is spared: it shows how much faster than the others any could be here."""
    return Peer(FLOOR, (sys.executable, str(HERE / "floor.py"), url, str(output)))


def _compare(
    place: str,
    runs: LoaderRuns,
    source: dict[str, Any],
    peers: Sequence[Peer],
    output: Path,
    repetitions: int,
    goals: Goals,
) -> list[Figure]:
    def load() -> Run:
        _make_room(runs, output)
        return runs.fresh(source, CRC_ONLY)

    contenders: dict[str, Callable[[], Run]] = {PREHEAT: load}
    able = [peer for peer in peers if _works(peer, runs, output)]
    contenders |= {peer.name: functools.partial(_fetch, peer, runs, output) for peer in able}
    contenders[PREHEAT]()  # the others are warm by now
    results = rotate(contenders, repetitions, warm_up=False)
    runs.empty()
    output.unlink(missing_ok=True)
    clients = [peer for peer in able if peer.name != FLOOR]
    return [*_rows(place, able, results), *_ratios(place, clients, results, goals), *_room(place, clients, results)]


def _fetch(peer: Peer, runs: LoaderRuns, output: Path) -> Run:
    _make_room(runs, output)
    return measure(peer.command, peer.environment)


def _make_room(runs: LoaderRuns, output: Path) -> None:
    runs.empty()  # both outputs would not fit into memory beside what is served
    output.unlink(missing_ok=True)
    touch_memory(output.parent, OUTPUT)


def _works(peer: Peer, runs: LoaderRuns, output: Path) -> bool:
    """Whether the peer can fetch from this server at all; says why not."""
    try:
        _fetch(peer, runs, output)
    except RunError as error:
        print(f"    {peer.name} is left out: {str(error).splitlines()[-1][:200]}", flush=True)
        return False
    return True


def _rows(place: str, peers: Iterable[Peer], results: dict[str, list[Run]]) -> list[Figure]:
    verifying = {PREHEAT, *(peer.name for peer in peers if peer.verifies)}
    return [
        Figure(
            f"2 GiB over {place}, {name}",
            seconds(found),
            f"s ({spread(found)}), {peak(found):.0f} MiB",
            "verified" if name in verifying else "",
        )
        for name, found in results.items()
    ]


def _room(place: str, peers: Sequence[Peer], results: dict[str, list[Run]]) -> list[Figure]:
    """How much faster than the fastest client one could be that does nothing but receive and write."""
    if FLOOR not in results:
        return []
    floor, figures = seconds(results[FLOOR]), []
    for what, verifies in (("verifies", True), ("does not", False)):
        names = [peer.name for peer in peers if peer.verifies == verifies]
        if names:
            best = min(names, key=lambda name: seconds(results[name]))
            label = f"2 GiB over {place}, {FLOOR} beside the fastest that {what}"
            against = f"{best}, {seconds(results[best]):.2f} s, without any check {floor:.2f} s"
            figures.append(Figure(label, seconds(results[best]) / floor, "x faster", against))
    return figures


def _ratios(place: str, peers: Sequence[Peer], results: dict[str, list[Run]], goals: Goals) -> list[Figure]:
    groups = {
        "the fastest that verifies": [peer.name for peer in peers if peer.verifies],
        "the fastest that does not": [peer.name for peer in peers if not peer.verifies],
        "the fastest default": [peer.name for peer in peers if not peer.tuned],
        "the fastest tuned": [peer.name for peer in peers if peer.tuned],
        **{peer.name: [peer.name] for peer in peers},
    }
    own = seconds(results[PREHEAT])
    figures = []
    for what, goal in goals.items():
        if what == "memory":
            figures.append(Figure(f"2 GiB over {place}, Preheat's memory", peak(results[PREHEAT]), "MiB", "", goal))
        elif names := groups.get(what):
            best = min(names, key=lambda name: seconds(results[name]))
            against = f"{best}, {seconds(results[best]):.2f} s, Preheat {own:.2f} s"
            figures.append(
                Figure(
                    f"2 GiB over {place}, Preheat beside {what}",
                    seconds(results[best]) / own,
                    "x faster",
                    against,
                    goal,
                )
            )
    return figures
