"""`make bench`: measure what the design promises, print it beside its goals, write bench/results.json.

Whole processes on this machine, files warm in the page cache, servers on loopback: read ratios, not seconds.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import local
import remote
import training
import whole
from checkpoints import DEMO
from choosing import choosing, make_run
from damage import damage
from load import load
from loader import LoaderRuns
from peers import REQUIREMENTS, Peer
from processes import measure
from results import Figure, show, write, write_tables
from saving import saving, sharded
from scale import scale
from scattered import scattered
from sent import sent
from servers import (
    BUCKET,
    CERTIFICATE,
    empty_s3_server,
    file_server,
    s3_server,
    s3_server_with_tls,
    slowed,
    versitygw,
)

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("PREHEAT_CACHE", Path.home() / ".cache" / "preheat")) / "bench"
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
NEEDED_BYTES = 4 << 30
DEFAULTS = ("boto3 default", "boto3 CRT, checksum", "s5cmd default", "rclone default", "obstore, 16 x 8 MiB")


@dataclass(frozen=True)
class Bench:
    """Where and how often is measured, and beside whom."""

    runs: LoaderRuns
    repetitions: int
    everybody: bool

    def chosen(self, peer: Peer) -> bool:
        """Whether a peer takes part: without --all the ones that the goals are about."""
        return self.everybody or peer.name in DEFAULTS


def main() -> None:
    """Measure; exit 1 when a goal is missed."""
    options, started = _options(), time.monotonic()
    FOLDER.mkdir(parents=True, exist_ok=True)
    say("making the checkpoints (once; kept in the cache)")
    measure([sys.executable, HERE / "checkpoints.py", FOLDER])
    with output_folder() as outputs:
        bench = Bench(LoaderRuns(outputs / "volume"), options.repetitions, options.all)
        found: dict[str, list[Figure]] = {}
        for name in options.parts or [name for name, part in PARTS.items() if options.all or not part.heavy]:
            say(PARTS[name].says)
            found[name] = PARTS[name].measure(bench)
    figures = [figure for part in found.values() for figure in part]
    title = f"Whole processes, median of {options.repetitions} runs, output to {outputs} (command: make bench)"
    show(figures, title, versions())
    write(found, HERE / "results.json")
    if options.docs:
        minutes = (time.monotonic() - started) / 60
        machine = f"Measured in {minutes:.0f} minutes, parts {', '.join(found)}: {versions()}; {others()}."
        write_tables(found, machine, DOCUMENT)
    if missed := [figure.name for figure in figures if figure.met is False]:
        raise SystemExit(f"goals missed: {', '.join(missed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every part and every peer: takes long")
    parser.add_argument("--only", dest="parts", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/benchmarks.md, too")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


def say(what: str) -> None:
    """What the person who waits is waiting for."""
    print(f"==> {what}", flush=True)


def versions() -> str:
    """What was measured, on what."""
    names = ("preheat", "torch", "safetensors", "numpy", "isal", "botocore")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{packages}; Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores"


def others() -> str:
    """The peers and their versions."""
    return ", ".join(line.replace("==", " ") for line in REQUIREMENTS.with_suffix(".in").read_text().split())


@contextmanager
def output_folder() -> Iterator[Path]:
    """Memory where there is room, because a disk's write-back would drown every ratio; else the cache."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > NEEDED_BYTES
    folder = (memory if roomy else FOLDER) / "preheat-bench"
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _local(bench: Bench) -> list[Figure]:
    figures = local.conversion(bench.runs, FOLDER / "large.ckpt", bench.repetitions)
    figures += local.warm_re_run(bench.runs, FOLDER / "demo.ckpt", bench.repetitions)
    output = bench.runs.volume.parent / "run"
    return figures + local.resumption(bench.runs, FOLDER / "demo.ckpt", output, bench.repetitions)


def _folder(bench: Bench) -> list[Figure]:
    return local.folder(bench.runs, FOLDER / "distributed", bench.repetitions)


def _remote(bench: Bench) -> list[Figure]:
    with remote.remote_sources(FOLDER) as (web, bucket):
        figures = remote.memory(bench.runs, FOLDER, web, bucket)
        figures += remote.first_request(bench.runs, web, bucket, bench.repetitions)
        figures += remote.fetched(bench.runs, FOLDER, web, bucket)
        return figures + remote.downloaded(bench.runs, FOLDER, web, bench.repetitions)


def _whole(bench: Bench) -> list[Figure]:
    with s3_server(FOLDER) as endpoint:
        return whole.plain(bench.runs, endpoint, bench.repetitions, bench.chosen)


def _http(bench: Bench) -> list[Figure]:
    with s3_server(FOLDER), file_server(FOLDER) as url:  # the former uploads, links, and sets the keys to sign with
        return whole.http(bench.runs, url, bench.repetitions, bench.chosen)


def _shaped(bench: Bench) -> list[Figure]:
    with s3_server(FOLDER) as near, slowed(near) as endpoint:
        return whole.shaped(bench.runs, endpoint, bench.repetitions, lambda peer: True)


def _tls(bench: Bench) -> list[Figure]:
    with s3_server(FOLDER):
        pass  # the files are uploaded
    with s3_server_with_tls(FOLDER) as endpoint:
        return whole.tls(bench.runs, endpoint, FOLDER / CERTIFICATE, bench.repetitions, bench.chosen)


def _sent(bench: Bench) -> list[Figure]:
    scratch = bench.runs.volume.parent / "served"
    scratch.mkdir(exist_ok=True)
    try:
        with empty_s3_server(scratch) as endpoint:
            stored = scratch / "s3" / BUCKET
            return sent(FOLDER / DEMO, endpoint, stored, bench.repetitions, bench.everybody)
    finally:
        shutil.rmtree(scratch)


def _ranges(bench: Bench) -> list[Figure]:
    with s3_server(FOLDER) as endpoint:
        return scattered("S3", bench.runs, FOLDER, endpoint, bench.repetitions)


def _far_ranges(bench: Bench) -> list[Figure]:
    with s3_server(FOLDER) as near, slowed(near) as endpoint:
        return scattered("S3 at 30 ms and 90 MB/s", bench.runs, FOLDER, endpoint, bench.repetitions)


def _choosing(bench: Bench) -> list[Figure]:
    make_run(FOLDER)
    with versitygw(FOLDER, "http") as endpoint:
        return choosing(endpoint, bench.repetitions)


def _load(bench: Bench) -> list[Figure]:
    return load(FOLDER, bench.runs.volume.parent, bench.repetitions, bench.everybody)


def _saving(bench: Bench) -> list[Figure]:
    return saving(FOLDER, bench.repetitions) + sharded(FOLDER, bench.repetitions)


def _training(bench: Bench) -> list[Figure]:
    scratch = bench.runs.volume.parent
    return training.sharded(FOLDER, scratch) + training.first_step(FOLDER, scratch, bench.repetitions)


def _scale(bench: Bench) -> list[Figure]:
    (FOLDER / "scale").mkdir(exist_ok=True)
    return scale(bench.runs, FOLDER / "scale", bench.repetitions)


@dataclass(frozen=True)
class Part:
    """Some figures that are measured together. `heavy` ones wait for --all, or to be named."""

    says: str
    measure: Callable[[Bench], list[Figure]]
    heavy: bool = False


PARTS = {
    "local": Part("converting a local file, beside cp and torch", _local),
    "remote": Part("reading from HTTP and S3: memory, first request, bytes on the wire", _remote),
    "whole": Part("a whole object over S3, beside its other clients", _whole),
    "http": Part("a whole object over HTTP", _http, heavy=True),
    "shaped": Part("a whole object over S3 at 30 ms and 90 MB/s a connection", _shaped, heavy=True),
    "tls": Part("a whole object over S3 with TLS", _tls, heavy=True),
    "sent": Part("a whole file into a bucket, beside other clients", _sent),
    "ranges": Part("scattered tensors over S3", _ranges),
    "far-ranges": Part("scattered tensors over S3 at 30 ms and 90 MB/s a connection", _far_ranges, heavy=True),
    "folder": Part("converting a folder of torch.distributed.checkpoint", _folder),
    "choosing": Part("choosing a checkpoint of a run with 10,000 names in a bucket", _choosing),
    "damage": Part("one flipped bit on the server", lambda bench: damage(bench.runs, FOLDER)),
    "load": Part("a bundle into a model's parameters on the CPU, beside other loaders", _load),
    "saving": Part("2 GiB of parameters to the disk, beside other savers", _saving),
    "training": Part("training processes: bytes of sharded models, start to first step", _training, heavy=True),
    "scale": Part("many tensors, many files, a large file", _scale, heavy=True),
}

if __name__ == "__main__":
    main()
