"""The programs of the benchmarks that are written in Go, each a folder here."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def program(name: str) -> Path:
    """The program in the folder `name`, built when its source has changed."""
    source = b"".join(path.read_bytes() for path in sorted((HERE / name).iterdir()))
    cache = Path(os.environ.get("PREHEAT_CACHE", Path.home() / ".cache" / "preheat"))
    built = cache / "bin" / f"bench-{name}-{hashlib.sha256(source).hexdigest()[:16]}"
    if not built.exists():
        if shutil.which("go") is None:
            raise RuntimeError("the benchmarks build programs of their own with Go, which is not on PATH")
        built.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["go", "build", "-trimpath", "-o", f"{built}.new", "."], cwd=HERE / name, check=True)
        Path(f"{built}.new").rename(built)
    return built
