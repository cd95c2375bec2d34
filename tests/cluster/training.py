"""What training pods run: a virtual environment with the locked torch and frameworks, mounted instead of baked in.

An image of five gigabytes would have to be built, packed and unpacked. The environment is made from the distribution's
own interpreter, which the base image has too, and reaches the pods through a persistent volume, read-only. It holds
nothing of Preheat.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import settings
from cluster.commands import CommandError, only_one, run, say
from cluster.host import PYTHON, python_version

PACKAGES = ("accelerate", "lightning", "numpy", "torch", "transformers")
CLAIM = "training-environment"
LABEL = "preheat.test/namespace"


@dataclass(frozen=True)
class TrainingEnvironment:
    """The environment's folder on this machine, and the path under which pods see it."""

    folder: Path
    path: str = "/opt/training"
    claim: str = CLAIM

    @property
    def python(self) -> str:
        """The interpreter to run in a pod."""
        return f"{self.path}/bin/python"

    def volume_manifests(self, namespace: str) -> str:
        """A volume and the namespace's claim on it, `training-environment`; JSON, which is YAML."""
        size = {"storage": "10Gi"}
        name = f"{CLAIM}-{namespace}"
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "labels": {LABEL: namespace}},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadOnlyMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "",
                "claimRef": {"namespace": namespace, "name": CLAIM},
                "hostPath": {"path": str(self.folder), "type": "Directory"},
            },
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM, "namespace": namespace},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "volumeName": name,
                "resources": {"requests": size},
            },
        }
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": [volume, claim]}, indent=2)


def training_environment() -> TrainingEnvironment:
    """The environment for the locked versions, made when it is not in the cache."""
    lock = settings.REPO / "requirements.lock"
    digest = hashlib.sha256(f"{python_version()} {PACKAGES} {lock.read_text()}".encode()).hexdigest()[:12]
    folder = settings.cache() / "training" / digest
    with only_one(folder.parent / "lock"):
        if not folder.exists():
            say("making the training environment with torch and frameworks: a minute or two, once")
            started = time.monotonic()
            _make(folder, lock)
            say(f"made the training environment in {time.monotonic() - started:.0f} s")
    return TrainingEnvironment(folder)


def _make(folder: Path, lock: Path) -> None:
    uv = _uv()
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    # Relocatable: pods see it under another path than this machine.
    run(uv, "venv", "--quiet", "--relocatable", "--python", PYTHON, unfinished)
    # Compiled now: pods cannot write to it, and would compile torch anew each time.
    install = (uv, "pip", "install", "--quiet", "--python", unfinished / "bin" / "python", "--compile-bytecode")
    run(*install, "--constraints", lock, *PACKAGES)
    for older in folder.parent.iterdir():
        if older.is_dir() and older != unfinished:
            shutil.rmtree(older)
    unfinished.rename(folder)


def _uv() -> str:
    ours = sorted(settings.cache().glob("uv-*/bin/uv"))
    found = str(ours[-1]) if ours else shutil.which("uv")
    if found is None:
        raise CommandError("uv is missing: `make setup` installs it")
    return found
