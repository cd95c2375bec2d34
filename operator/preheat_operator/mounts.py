"""Which volume a path of a container is on, and how another container of the pod sees the same files there."""

from __future__ import annotations

from collections.abc import Mapping
from posixpath import normpath
from typing import Any

Object = Mapping[str, Any]

#: What the loader's image has there would be hidden.
_NEEDED = ("/opt/preheat", "/shim", "/usr", "/bin", "/lib", "/lib64", "/etc", "/dev", "/proc")


def cleaned(path: str) -> str:
    """The path as a container sees it, in one spelling: from the root, without what leads nowhere."""
    return normpath(f"/{path.lstrip('/')}")


def mount_of(path: str, container: Object) -> Object | None:
    """The mount that a path is in: of several on its way, the innermost."""
    mounts = container.get("volumeMounts") or ()
    holding = [each for each in mounts if _within(cleaned(path), cleaned(each["mountPath"]))]
    return max(holding, key=lambda each: len(cleaned(each["mountPath"]))) if holding else None


def place_of(mount: Object) -> dict[str, Any]:
    """What of a mount says which files are seen where."""
    return {key: mount[key] for key in ("name", "mountPath", "subPath", "subPathExpr") if mount.get(key)}


def hides_the_image(path: str) -> bool:
    """Whether a volume at the path would stand in the place of what the loader's image needs."""
    return any(_within(each, path) for each in _NEEDED)


def _within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
