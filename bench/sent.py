"""A file of 661 MB into a bucket: `preheat upload`, which verifies what has arrived, beside other clients.

The server is the same for all, and most of the work is its own: it puts the parts together by copying them.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from checkpoints import DEMO
from peers import Peer, upload_peers
from processes import Run, RunError, measure, peak, rotate, seconds, spread
from results import Figure
from servers import BUCKET

PREHEAT = "Preheat"
KEY = "sent/demo.ckpt"
#: By whom, and how much faster Preheat shall be.
GOALS = {"rclone default": ">= 0.95", "s5cmd default": ">= 0.95", "boto3 default": ">= 0.95"}


def sent(file: Path, endpoint: str, stored: Path, repetitions: int, everybody: bool) -> list[Figure]:
    """Wall time and memory of each; `stored` is the server's folder, emptied between two uploads."""
    folder = stored / "sent"

    def once(command: list[str] | tuple[str, ...], environment: dict[str, str]) -> Run:
        shutil.rmtree(folder, ignore_errors=True)
        run = measure(command, environment)
        if (folder / DEMO).stat().st_size != file.stat().st_size:
            raise RunError(f"{command[0]} has not sent the file")
        return run

    ours = [sys.executable, "-m", "preheat", "upload", str(file), f"s3://{BUCKET}/sent/", "--endpoint", endpoint]
    contenders: dict[str, Callable[[], Run]] = {PREHEAT: functools.partial(once, ours, {})}
    peers = [peer for peer in upload_peers(endpoint, BUCKET, file, KEY) if everybody or not peer.tuned]
    contenders |= {peer.name: functools.partial(once, peer.command, peer.environment) for peer in peers}
    try:
        results = rotate(contenders, repetitions)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [*_rows(peers, results), *_ratios(results)]


def _rows(peers: list[Peer], results: dict[str, list[Run]]) -> list[Figure]:
    verifying = {PREHEAT, *(peer.name for peer in peers if peer.verifies)}
    return [
        Figure(
            f"upload of 661 MB, {name}",
            seconds(found),
            f"s ({spread(found)}), {peak(found):.0f} MiB",
            "verified" if name in verifying else "",
        )
        for name, found in results.items()
    ]


def _ratios(results: dict[str, list[Run]]) -> list[Figure]:
    own = seconds(results[PREHEAT])
    figures = [
        Figure(
            f"upload of 661 MB, Preheat beside {name}",
            seconds(results[name]) / own,
            "x as fast",
            f"{seconds(results[name]):.2f} s, Preheat {own:.2f} s",
            goal,
        )
        for name, goal in GOALS.items()
        if name in results
    ]
    return [*figures, Figure("upload of 661 MB, Preheat's memory", peak(results[PREHEAT]), "MiB", "", "<= 128")]
