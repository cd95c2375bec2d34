"""`make bench`: measure what the design promises, print it beside its goals, write bench/results.json.

Whole processes on this machine, files warm in the page cache, servers on loopback: read ratios, not seconds.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loader import LoaderRuns
from meter import Meter
from processes import Run, measure, peak, rotate, seconds, spread
from results import Figure, show, write
from servers import file_server, s3_server

HERE = Path(__file__).parent
REPETITIONS = int(os.environ.get("PREHEAT_BENCH_REPETITIONS", "5"))
FOLDER = Path(os.environ.get("PREHEAT_CACHE", Path.home() / ".cache" / "preheat")) / "bench"
NEEDED_BYTES = 4 << 30
CRC_ONLY = {"verify": {"finite": False}}
CRC_AND_FINITE = {"verify": {"finite": True}}
UNCHECKED = {"verify": {"crc32": False, "finite": False}}


def main() -> None:
    """Measure everything; exit 1 when a goal is missed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    say("making the checkpoints (once; kept in the cache)")
    measure([sys.executable, HERE / "checkpoints.py", FOLDER])
    outputs = output_folder()
    runs = LoaderRuns(outputs / "volume")
    say("converting a local file, beside cp and torch")
    figures = conversion(runs, FOLDER / "large.ckpt")
    say("running again with the bundle there")
    figures += warm_re_run(runs, FOLDER / "demo.ckpt")
    say("starting an HTTP and an S3 server")
    with remote_sources() as (web, bucket):
        say("reading two sizes from disk, HTTP and S3")
        figures += memory(runs, web, bucket)
        say("waiting for first requests")
        figures += first_request(runs, web, bucket)
        say("counting bytes on the wire")
        figures += fetched(runs, web, bucket)
    shutil.rmtree(outputs)
    show(
        figures, f"Whole processes, median of {REPETITIONS} runs, output to {outputs} (command: make bench)", versions()
    )
    write(figures, HERE / "results.json")
    if missed := [figure.name for figure in figures if figure.met is False]:
        raise SystemExit(f"goals missed: {', '.join(missed)}")


def say(what: str) -> None:
    """What the person who waits is waiting for."""
    print(f"==> {what}", flush=True)


def versions() -> str:
    """What was measured, on what."""
    names = ("preheat", "torch", "safetensors", "numpy", "isal", "botocore")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{packages}; Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores"


def output_folder() -> Path:
    """Memory where there is room, because a disk's write-back would drown every ratio; else the cache."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > NEEDED_BYTES
    folder = (memory if roomy else FOLDER) / "preheat-bench"
    folder.mkdir(exist_ok=True)
    return folder


def conversion(runs: LoaderRuns, checkpoint: Path) -> list[Figure]:
    """A local Lightning file with its optimizer's state -> weights as safetensors."""
    source = {"local": {"path": str(checkpoint)}}
    runs.fresh(source, CRC_ONLY)
    reference = runs.volume.parent / "reference.safetensors"
    shutil.copyfile(runs.weights(), reference)
    output = runs.volume.parent / "output.safetensors"

    def write_output(*command: Any) -> Run:
        output.unlink(missing_ok=True)
        return measure(command)

    peer = [sys.executable, HERE / "peer_torch.py", checkpoint, output]
    contenders = {
        "cp": lambda: write_output("cp", "--reflink=never", reference, output),
        "unchecked": lambda: runs.fresh(source, UNCHECKED),
        "crc": lambda: runs.fresh(source, CRC_ONLY),
        "crc and finite": lambda: runs.fresh(source, CRC_AND_FINITE),
        "torch.load + save_file": lambda: write_output(*peer),
        "torch.load(mmap) + save_file": lambda: write_output(*peer, "mmap"),
    }
    results = rotate(contenders, REPETITIONS)
    size = reference.stat().st_size / 1e9
    floor = seconds(results["cp"])
    against = f"cp of {size:.2f} GB, {floor:.2f} s ({spread(results['cp'])})"
    goals = {"unchecked": "<= 1.3", "crc": "<= 1.6", "crc and finite": "<= 1.6"}
    figures = [
        Figure(f"conversion, {name}", seconds(found) / floor, f"x cp ({spread(found)})", against, goals.get(name))
        for name, found in results.items()
        if name != "cp"
    ]
    figures += [
        Figure(f"memory, {name}", peak(found), "MiB", goal="<= 64" if name in goals else None)
        for name, found in results.items()
        if name != "cp"
    ]
    for leftover in (reference, output):
        leftover.unlink()
    return figures


def warm_re_run(runs: LoaderRuns, checkpoint: Path) -> list[Figure]:
    """The init container runs again: in the same pod, and in another pod on the same volume."""
    source = {"local": {"path": str(checkpoint)}}
    runs.fresh(source)
    contenders = {
        "the same pod": lambda: runs.run(source),
        "another pod on the volume": lambda: runs.run(source, pod="pod-2"),
    }
    results = rotate(contenders, REPETITIONS)
    return [Figure(f"warm re-run, {name}", seconds(found), "s", goal="<= 1.0") for name, found in results.items()]


@contextmanager
def remote_sources() -> Iterator[tuple[Meter, Meter]]:
    """The checkpoints behind HTTP and S3, each behind a relay that counts."""
    with ExitStack() as stack:
        web = stack.enter_context(Meter(stack.enter_context(file_server(FOLDER))))
        bucket = stack.enter_context(Meter(stack.enter_context(s3_server(FOLDER))))
        yield web, bucket


def over_http(meter: Meter, name: str) -> dict[str, Any]:
    """The `http` stage for a checkpoint."""
    return {"http": {"url": f"{meter.url}/{name}"}}


def over_s3(meter: Meter, name: str) -> dict[str, Any]:
    """The `s3` stage for a checkpoint; credentials come from the environment that `s3_server` set."""
    where = {"bucket": "bench", "key": name, "endpoint": meter.url, "region": "us-east-1", "addressing": "path"}
    return {"s3": where}


def memory(runs: LoaderRuns, web: Meter, bucket: Meter) -> list[Figure]:
    """Peak resident memory must not grow with the checkpoint."""
    figures = []
    for name in ("demo.ckpt", "large.ckpt"):
        size = f"{(FOLDER / name).stat().st_size / 1e9:.1f} GB"
        for label, source, goal in (
            ("local", {"local": {"path": str(FOLDER / name)}}, "<= 64"),
            ("HTTP", over_http(web, name), "<= 64"),
            ("S3", over_s3(bucket, name), "<= 96"),
        ):
            found = [runs.fresh(source, CRC_AND_FINITE) for _ in range(3)]
            figures.append(Figure(f"memory, {label}, {size} checkpoint", peak(found), "MiB", goal=goal))
    return figures


def first_request(runs: LoaderRuns, web: Meter, bucket: Meter) -> list[Figure]:
    """From the start of the process to its first byte on the wire."""
    figures = []
    for label, meter, source, goal in (
        ("without S3", web, over_http(web, "demo.ckpt"), "<= 0.3"),
        ("with boto3", bucket, over_s3(bucket, "demo.ckpt"), "<= 0.8"),
    ):
        waits = []
        for _ in range(REPETITIONS):
            runs.empty()
            meter.reset()
            started = time.time()
            runs.run(source)
            assert meter.first_request
            waits.append(meter.first_request - started)
        figures.append(Figure(f"first request, {label}", sorted(waits)[len(waits) // 2], "s", goal=goal))
    return figures


def fetched(runs: LoaderRuns, web: Meter, bucket: Meter) -> list[Figure]:
    """Bytes that came over the wire, HTTP headers included, against what the selected tensors need."""
    figures = []
    for label, meter, source in (
        ("HTTP", web, over_http(web, "large.ckpt")),
        ("S3", bucket, over_s3(bucket, "large.ckpt")),
    ):
        runs.empty()
        meter.reset()
        runs.run(source)
        totals = runs.manifest()["totals"]
        allowed = 1.001 * totals["selectedBytes"] + 65536  # the pickle would be allowed on top
        whole = (FOLDER / "large.ckpt").stat().st_size
        figures.append(
            Figure(
                f"bytes fetched over {label}",
                meter.received / allowed,
                f"x allowed ({meter.received / 1e6:.0f} of {whole / 1e6:.0f} MB)",
                "1.001 x selected + 64 KiB",
                "<= 1",
            )
        )
    return figures


if __name__ == "__main__":
    main()
