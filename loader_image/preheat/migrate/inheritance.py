"""linnaeus' includes: files under `BASE` for the whole, `MODEL.BASE` for the model, `FROM` for any section.

They are looked for in CONFIG_DIR, as linnaeus does, and in the folders above the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preheat.migrate.files import load, merged
from preheat.migrate.traced import Remark


def inherited(path: Path, document: dict[str, Any]) -> tuple[dict[str, Any], list[Remark]]:
    """The document over what it includes, and a remark for each file that is not there."""
    missing: list[Remark] = []
    return _over(path, document, missing, ()), missing


def _over(path: Path, document: dict[str, Any], missing: list[Remark], seen: tuple[Path, ...]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for base in _included(path, "BASE", document.get("BASE"), missing, seen):
        whole = merged(whole, _over(base, load(base), missing, (*seen, base)))
    for name, section in document.items():
        if isinstance(section, dict):
            for key in ("BASE", "FROM"):
                for base in _included(path, f"{name}.{key}", section.get(key), missing, seen):
                    lower = _over(base, load(base), missing, (*seen, base))
                    whole = merged(whole, {name: lower.get(name, lower)})
    combined: dict[str, Any] = merged(whole, document)
    return combined


def _included(path: Path, key: str, names: Any, missing: list[Remark], seen: tuple[Path, ...]) -> Iterator[Path]:
    for name in [names] if isinstance(names, str) else names or ():
        if not isinstance(name, str) or not name.strip():
            continue
        found = next((folder / name for folder in _folders(path) if (folder / name).is_file()), None)
        if found is None:
            missing.append(Remark((key,), f"the file {name} is not here, so what it sets is not known: set CONFIG_DIR"))
        elif found not in seen:
            yield found


def _folders(path: Path) -> Iterator[Path]:
    if folder := os.environ.get("CONFIG_DIR"):
        yield Path(folder)
    yield from path.absolute().parents
