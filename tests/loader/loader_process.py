"""The loader as a pod runs it: a process of its own with nothing but its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POD = "6f1c0f4e-0000-4000-8000-000000000001"


@dataclass(frozen=True)
class Ended:
    """How a loader ended."""

    code: int
    log: str
    message: dict[str, Any]  # the termination message


def environment(stages: Sequence[Mapping[str, Any]], volume: Path, pod: str = POD, **settings: Any) -> dict[str, str]:
    """What the operator injects; `settings` are those of the spec, in capitals variables of their own."""
    variables = {name: value for name, value in settings.items() if name.isupper()}
    spec = {"stages": list(stages), **{name: value for name, value in settings.items() if not name.isupper()}}
    pipeline = {"name": "finetune", "namespace": "team-a", "uid": "1", "generation": 7, "spec": spec}
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "HOME")}
    return {
        **inherited,
        "PREHEAT_PIPELINE": json.dumps(pipeline),
        "PREHEAT_VOLUME": str(volume),
        "PREHEAT_POD_UID": pod,
        "PREHEAT_SHIM": "off",
        "PREHEAT_TERMINATION_LOG": str(message_path(volume, pod)),
        **variables,
    }


def message_path(volume: Path, pod: str) -> Path:
    return volume.parent / f"{volume.name}-{pod}-termination-log"


def start(stages: Sequence[Mapping[str, Any]], volume: Path, pod: str = POD, **settings: Any) -> subprocess.Popen[str]:
    """The process, started."""
    return subprocess.Popen(
        [sys.executable, "-m", "preheat.loader"],
        env=environment(stages, volume, pod, **settings),
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], volume: Path, pod: str = POD) -> Ended:
    """Wait for a started process."""
    _, log = process.communicate(timeout=60)
    path = message_path(volume, pod)
    return Ended(process.returncode, log, json.loads(path.read_text()) if path.exists() else {})


def load(stages: Sequence[Mapping[str, Any]], volume: Path, pod: str = POD, **settings: Any) -> Ended:
    """Run the loader to its end."""
    message_path(volume, pod).unlink(missing_ok=True)
    return finish(start(stages, volume, pod, **settings), volume, pod)


def bundles(volume: Path) -> list[Path]:
    """Everything that is or was to become a bundle."""
    return sorted((volume / "bundles").glob("*")) + sorted((volume / "bundles").glob(".*"))
