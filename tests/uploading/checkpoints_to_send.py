"""Folders as `preheat.save` leaves them, without a training: files, and the manifest that makes them a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path

from preheat.bundle.manifest import MANIFEST, Manifest, Pipeline, SourceFacts


def save(home: Path, name: str, size: int = 1000, **files: bytes) -> Path:
    """A complete checkpoint called `name`."""
    folder = home / name
    folder.mkdir(parents=True)
    content = {"model.safetensors": os.urandom(size), "state.json": b"{}", **files}
    for file, data in content.items():
        (folder / file).write_bytes(data)
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Write the manifest of what is there."""
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    facts = SourceFacts("", "", 0, "safetensors", "preheat")
    (folder / MANIFEST).write_text(Manifest("0" * 32, Pipeline(), facts, files, {}).to_json())


def point(home: Path, tag: str, name: str) -> Path:
    """A pointer to a checkpoint."""
    path = home / f"{name.partition('_cp=')[0]}_cp={tag}.json"
    path.write_text(json.dumps({"checkpoint": name}))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
