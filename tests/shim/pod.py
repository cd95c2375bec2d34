"""A training container without a cluster: the shim folder as the image lays it out, and scripts that run with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from warm import Warm

import preheat

PACKAGE = Path(preheat.__file__).parent
PROJECT = PACKAGE.parent.parent / "pyproject.toml"


def lay_out_shim(folder: Path) -> Path:
    """What the image has in /shim: the package, the loose module, and the entry points that pip would write."""
    shutil.copytree(PACKAGE, folder / "preheat", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE / "shim" / "pod" / "sitecustomize.py", folder)
    info = folder / f"preheat-{preheat.__version__}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: preheat\nVersion: {preheat.__version__}\n")
    groups = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


class Pod:
    """Runs Python as a training container of an injected pod would; `report` is where its reports go."""

    _warm: Warm | None = None

    def __init__(self, shim: Path, work: Path, bundle: Path | None, mode: str | None = "auto") -> None:
        self.shim, self.work, self.report = shim, work, work / "report.json"
        given = {
            "PYTHONPATH": str(shim),
            "PREHEAT_BUNDLE": str(bundle) if bundle else None,
            "PREHEAT_SHIM": mode,
            "PREHEAT_REPORT": str(self.report),
            "CUDA_VISIBLE_DEVICES": "",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREHEAT_", "PYTHON"))}
        self.environment = inherited | {name: value for name, value in given.items() if value is not None}

    def on(self, warm: Warm) -> Self:
        """The same, with scripts in processes that are forked from one that has imported what they import."""
        self._warm = warm
        return self

    def python(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script; its exit code, output and errors."""
        path = self.work / "train.py"
        path.write_text(script)
        if self._warm:
            return self._warm.run(path, self.environment | environment)
        return subprocess.run(
            [sys.executable, str(path)],
            cwd=self.work,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def succeed(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python`, with exit code 0."""
        done = self.python(script, **environment)
        assert done.returncode == 0, done.stderr
        return done


@contextmanager
def warm_python(shim: Path, work: Path, *modules: str) -> Iterator[Warm]:
    """An interpreter of a pod with this shim, in the mode auto, that has imported these modules."""
    found = Warm(Pod(shim, work, work / "no-bundle").environment, *modules)
    try:
        yield found
    finally:
        found.end()
