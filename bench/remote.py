"""HTTP and S3: memory, the first request, bytes on the wire, and what people do instead."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loader import CRC_AND_FINITE, CRC_ONLY, LoaderRuns, over_http, over_s3
from meter import Meter
from processes import measure, median_of, peak, rotate, seconds, spread
from results import Figure
from servers import file_server, s3_server

HERE = Path(__file__).parent


@contextmanager
def remote_sources(folder: Path) -> Iterator[tuple[Meter, Meter]]:
    """The checkpoints behind HTTP and S3, each behind a relay that counts."""
    with ExitStack() as stack:
        web = stack.enter_context(Meter(stack.enter_context(file_server(folder))))
        bucket = stack.enter_context(Meter(stack.enter_context(s3_server(folder))))
        yield web, bucket


def memory(runs: LoaderRuns, folder: Path, web: Meter, bucket: Meter) -> list[Figure]:
    """Peak resident memory must not grow with the checkpoint."""
    figures = []
    for name in ("demo.ckpt", "large.ckpt"):
        size = f"{(folder / name).stat().st_size / 1e9:.1f} GB"
        for label, source, goal in (
            ("local", {"local": {"path": str(folder / name)}}, "<= 64"),
            ("HTTP", over_http(web.url, name), "<= 64"),
            ("S3", over_s3(bucket.url, name), "<= 96"),
        ):
            found = [runs.fresh(source, CRC_AND_FINITE) for _ in range(3)]
            figures.append(Figure(f"memory, {label}, {size} checkpoint", peak(found), "MiB", goal=goal))
    return figures


def first_request(runs: LoaderRuns, web: Meter, bucket: Meter, repetitions: int) -> list[Figure]:
    """From the start of the process to its first byte on the wire."""
    figures = []
    for label, meter, source, goal in (
        ("without S3", web, over_http(web.url, "demo.ckpt"), "<= 0.3"),
        ("with boto3", bucket, over_s3(bucket.url, "demo.ckpt"), "<= 0.8"),
    ):
        waits = []
        for _ in range(repetitions):
            runs.empty()
            meter.reset()
            started = time.time()
            runs.run(source)
            assert meter.first_request
            waits.append(meter.first_request - started)
        figures.append(Figure(f"first request, {label}", median_of(waits), "s", goal=goal))
    return figures + imports(repetitions)


def imports(repetitions: int) -> list[Figure]:
    """What the interpreter and the loader's modules take of the time to the first request."""
    programs = {"python -c pass": "pass", "import preheat.loader": "import preheat.loader"}
    results = rotate(
        {name: (lambda code=code: measure([sys.executable, "-c", code])) for name, code in programs.items()},
        4 * repetitions,
    )
    bare = seconds(results["python -c pass"])
    return [Figure(f"start, {name}", seconds(found), "s", f"{bare:.3f} s bare") for name, found in results.items()]


def fetched(runs: LoaderRuns, folder: Path, web: Meter, bucket: Meter) -> list[Figure]:
    """Bytes that came over the wire, HTTP headers included, against what the selected tensors need."""
    figures = []
    for label, meter, source in (
        ("HTTP", web, over_http(web.url, "large.ckpt")),
        ("S3", bucket, over_s3(bucket.url, "large.ckpt")),
    ):
        runs.empty()
        meter.reset()
        runs.run(source)
        totals = runs.manifest()["totals"]
        allowed = 1.001 * totals["selectedBytes"] + 65536  # the pickle would be allowed on top
        whole = (folder / "large.ckpt").stat().st_size
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


def downloaded(runs: LoaderRuns, folder: Path, web: Meter, repetitions: int) -> list[Figure]:
    """A remote Lightning file -> weights as safetensors, beside a download, torch.load and save_file."""
    copy, output = runs.volume.parent / "copy.ckpt", runs.volume.parent / "output.safetensors"
    script = 'curl -sf -o "$1" "$2" && exec "$3" "$4" "$1" "$5"'
    peer = ["sh", "-c", script, "sh", copy, f"{web.url}/large.ckpt", sys.executable, HERE / "peer_torch.py", output]
    contenders = {
        "loader": lambda: runs.fresh(over_http(web.url, "large.ckpt"), CRC_ONLY),
        "curl, torch.load, save_file": lambda: measure(peer),
    }
    results = rotate(contenders, repetitions)
    for leftover in (copy, output):
        leftover.unlink()
    ratio = seconds(results["curl, torch.load, save_file"]) / seconds(results["loader"])
    against = ", ".join(f"{name} {seconds(found):.2f} s ({spread(found)})" for name, found in results.items())
    whole = (folder / "large.ckpt").stat().st_size / 1e9
    return [Figure(f"weights of a {whole:.1f} GB file over HTTP", ratio, "x faster", against, ">= 8")]
