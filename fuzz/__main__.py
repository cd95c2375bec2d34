"""`make fuzz`: run every target for a while, keep what it learned in the cache, exit 1 where one broke."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("PREHEAT_CACHE", Path.home() / ".cache" / "preheat")) / "fuzz"
NAMES = re.findall(r'^    "([\w-]+)": Target\(', (HERE / "targets.py").read_text(), re.MULTILINE)  # imports no torch
SECONDS_OF_AN_INPUT = 10
GRACE = 120  # seconds that a target may take to import torch, make its seeds and end


def main() -> None:
    """Fuzz the targets that are named, or all; a kept input that once broke a target is tried first."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of: {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    broken = [name for name in options.targets or NAMES if not fuzz(name, options.seconds)]
    if broken:
        raise SystemExit(f"broken: {', '.join(broken)}. Inputs and tracebacks are in {FOLDER}")


def fuzz(name: str, seconds: int) -> bool:
    """Run one target in a process of its own and tell how it went; whether it held."""
    folder = FOLDER / name
    corpus, broken, log = folder / "corpus", folder / "broken", folder / "log"
    for path in (corpus, broken):
        path.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as seeds, log.open("wb") as output:
        arguments = [f"-max_total_time={seconds}", f"-timeout={SECONDS_OF_AN_INPUT}", "-rss_limit_mb=0"]
        arguments += ["-print_final_stats=1", f"-artifact_prefix={broken}/", str(corpus), seeds, str(broken)]
        command = [sys.executable, str(HERE / "process.py"), name, seeds, *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    print(
        f"{name:14} {'held' if code == 0 else 'BROKEN'}  {summary(log)}, {time.monotonic() - started:.0f} s", flush=True
    )
    if code:
        print("\n".join(log.read_text(errors="replace").splitlines()[-40:]), flush=True)
    return code == 0


def summary(log: Path) -> str:
    """Inputs that were tried, and what libFuzzer calls features: edges of the code with how often they were taken."""
    text = log.read_text(errors="replace")
    tried = re.findall(r"^#(\d+)\s", text, re.MULTILINE)
    features = re.findall(r" cov: (\d+) ft: (\d+) corp: (\d+)", text)
    edges, seen, kept = features[-1] if features else ("0", "0", "0")
    return f"{int(tried[-1]) if tried else 0:,} inputs, {edges} edges, {seen} features, {kept} kept"


main()
