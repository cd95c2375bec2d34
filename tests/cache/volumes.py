"""Volumes with bundles on them, as loaders leave them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from preheat.bundle.manifest import Manifest, Pipeline, SourceFacts, TensorFacts, Totals
from preheat.bundle.store import Store

DAY = 86_400.0
WEIGHTS = bytes(100_000)


def digest_named(letter: str) -> str:
    return letter * 32


def manifest(digest: str) -> Manifest:
    return Manifest(
        digest=digest,
        pipeline=Pipeline("finetune", "team-a", 7),
        source=SourceFacts(f"s3://models/{digest[0]}.ckpt", f"etag:{digest[0]}", 7, "torch-zip", "lightning"),
        files={"model.safetensors": len(WEIGHTS)},
        tensors={"w": TensorFacts("F32", (25_000,), 7)},
        totals=Totals(tensors=1),
    )


def make(root: Path, letter: str, *, days: float = 0) -> Path:
    """A bundle that was last used so many days ago."""
    digest = digest_named(letter)
    with Store(root).make(digest, f"maker-{os.getpid()}") as partial:
        if partial:
            partial.weights.write_bytes(WEIGHTS)
            partial.publish(manifest(digest))
    folder = root / "bundles" / digest
    with suppress(FileNotFoundError):  # evicted already
        age(folder, days)
    return folder


def attach(root: Path, pod: str, letter: str, *, days: float = 0) -> Path:
    """A pod that was given the bundle so many days ago, and has not used it since."""
    store, digest = Store(root), digest_named(letter)
    used = (root / "bundles" / digest).stat().st_mtime
    folder = store.attach(pod, digest, None)
    assert folder
    if days:
        age(folder, days)
        os.utime(root / "bundles" / digest, (used, used))
    return folder


def age(folder: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(folder, (then, then))


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def letters(root: Path) -> str:
    """The first letters of the bundles that are there."""
    return "".join(sorted(path.name[0] for path in (root / "bundles").iterdir() if not path.name.startswith(".")))


def remains(root: Path) -> list[Path]:
    """What is neither a bundle nor a pod's folder."""
    return [*(root / "bundles").glob(".*"), *(root / "pods").glob(".*")]
