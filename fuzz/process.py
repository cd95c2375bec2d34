"""One target in one process, under limits of memory and time. Usage: process.py TARGET SEEDS LIBFUZZER_ARGUMENT..."""

from __future__ import annotations

import hashlib
import resource
import sys
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["preheat"]):
    from targets import TARGETS

MEMORY = 1 << 30  # bytes that inputs may make the process grow by; MemoryError is a finding


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name, seeds, *arguments = sys.argv[1:]
    target = TARGETS[name]
    for content in target.seeds():
        Path(seeds, hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    mutator = {}
    if change := target.mutate:
        mutator["custom_mutator"] = lambda data, size, seed: change(data, size, atheris.Mutate, Random(seed))  # noqa: S311
    atheris.Setup([name, *arguments, f"-max_len={target.max_bytes}"], target.check, **mutator)
    grown = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (grown + MEMORY, grown + MEMORY))
    atheris.Fuzz()


main()
