"""Run the loader exactly as a pod does, on a volume of the benchmark's own."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from processes import Run, measure

CRC_ONLY = {"verify": {"finite": False}}
CRC_AND_FINITE = {"verify": {"finite": True}}
UNCHECKED = {"verify": {"crc32": False, "finite": False}}


def over_http(url: str, name: str) -> dict[str, Any]:
    """The `http` stage for a checkpoint."""
    return {"http": {"url": f"{url}/{name}"}}


def over_s3(endpoint: str, name: str) -> dict[str, Any]:
    """The `s3` stage for a checkpoint; credentials come from the environment that `s3_server` set."""
    where = {"bucket": "bench", "key": name, "endpoint": endpoint, "region": "us-east-1", "addressing": "path"}
    return {"s3": where}


class LoaderRuns:
    """Loader processes that share one volume folder."""

    def __init__(self, volume: Path) -> None:
        self.volume = volume

    def fresh(self, source: dict[str, Any], *stages: dict[str, Any], **environment: str) -> Run:
        """A run on an empty volume."""
        self.empty()
        return self.run(source, *stages, **environment)

    def run(
        self,
        source: dict[str, Any],
        *stages: dict[str, Any],
        pod: str = "pod-1",
        resume: dict[str, Any] | None = None,
        **environment: str,
    ) -> Run:
        """A run on the volume as it is."""
        self.volume.mkdir(parents=True, exist_ok=True)
        pipeline = {
            "name": "bench",
            "namespace": "bench",
            "uid": "bench",
            "generation": 1,
            "spec": {"stages": [source, *stages, {"weightsOnly": {}}], **({"resume": resume} if resume else {})},
        }
        contract = {
            "PREHEAT_PIPELINE": json.dumps(pipeline),
            "PREHEAT_VOLUME": str(self.volume),
            "PREHEAT_POD_UID": pod,
            "PREHEAT_SHIM": "off",
            "PREHEAT_TERMINATION_LOG": str(self.volume / "termination"),
        }
        return measure([sys.executable, "-m", "preheat.loader"], {**contract, **environment})

    def outcome(self) -> dict[str, Any]:
        """The last run's termination message."""
        message: dict[str, Any] = json.loads((self.volume / "termination").read_text())
        return message

    def weights(self) -> Path:
        """The safetensors file of the bundle."""
        [found] = self.volume.glob("bundles/*/model.safetensors")
        return found

    def manifest(self) -> dict[str, Any]:
        """The bundle's manifest."""
        found: dict[str, Any] = json.loads((self.weights().parent / "manifest.json").read_text())
        return found

    def empty(self) -> None:
        """Remove everything from the volume."""
        shutil.rmtree(self.volume, ignore_errors=True)
