"""Files that verbs write for a person to edit: never over another one, unless told to."""

from __future__ import annotations

from pathlib import Path

from preheat.errors import StorageError


def write(path: Path, text: str, *, force: bool) -> Path:
    """Write the file, and its folder where there is none; raises StorageError for one that is there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise StorageError(
            f"{path} exists", remedy="Name another place with --output, or replace it with --force"
        ) from None
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}", remedy="Name another place") from error
    return path
