"""From a path, URL or folder of a legacy configuration to a source, and what a pod has to have to read it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from preheat.errors import CheckpointConfigError
from preheat.migrate.traced import Remark, Traced
from preheat.spelling import spell
from preheat.verbs.location import source_of

#: Where a pod's loader has the pipeline's claim.
_MOUNTED = PurePosixPath("/preheat")
_ELSEWHERE = (
    "a path of the machine that trains. A pod's loader sees the pipeline's volume alone, at /preheat: put the files "
    "onto a claim and give --claim NAME=DIR, or begin with s3"
)
_OWN = (
    "where the training saves, in the pod too: mount a volume there in its container, and the loader reads it at the "
    "same path"
)
_RELATIVE = "a relative path, which counts from where `preheat exec` or `preheat run` is started"


@dataclass(frozen=True)
class Claim:
    """A claim, and the folder of the legacy system whose contents lie on it."""

    name: str
    folder: str

    def path(self, legacy: str) -> str | None:
        """Where a pod's loader finds a path of the legacy system; None when it is not on the claim."""
        path, folder = PurePosixPath(legacy), PurePosixPath(self.folder)
        return str(_MOUNTED / path.relative_to(folder)) if path.is_relative_to(folder) else None


@dataclass(frozen=True)
class Answers:
    """What no legacy configuration says, and its user knows."""

    name: str = ""
    """Of the resource; default: made of the configuration's own names."""

    claim: Claim | None = None
    """Where local files are in the cluster."""

    endpoint: str | None = None
    """URL of the S3 service that a bucket of the legacy configuration is in."""


def claim_of(text: str) -> Claim:
    """`NAME=DIR`; raises CheckpointConfigError for anything else."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise CheckpointConfigError(f"{text!r:.80} is no claim with a folder", remedy="Write --claim NAME=DIR")
    return Claim(name, folder)


def place(location: Traced, answers: Answers) -> tuple[Traced, list[Remark]]:
    """The source of a location, and what is to be done so that a pod can read it."""
    [(kind, parameters)] = spell(source_of(str(location))).items()
    if kind == "s3" and answers.endpoint:
        parameters = {**parameters, "endpoint": answers.endpoint}
    if kind != "local":
        return location.made({kind: {name: location.made(value) for name, value in parameters.items()}}), []
    legacy = parameters["path"]
    claimed = answers.claim.path(legacy) if answers.claim else None
    return location.made({"local": {"path": location.made(claimed or legacy)}}), _about(location, legacy, claimed)


def own_place(location: Traced) -> tuple[Traced, Remark]:
    """The source of a folder that the training itself writes to: it has one path, wherever it is mounted."""
    return location.made({"local": {"path": location}}), Remark(location.keys, _OWN)


def folder(path: Traced, *below: Traced | str | None) -> Traced:
    """The path of a folder below another; parts that are not there are left out."""
    parts = [part for part in below if part]
    traced = [part for part in parts if isinstance(part, Traced)]
    location = str(path)
    for part in parts:
        location = _joined(location, str(part))
    return path.made(location, *traced)


def _joined(folder: str, part: str) -> str:
    if "://" in folder:
        return f"{folder.rstrip('/')}/{part.strip('/')}"
    return str(PurePosixPath(folder) / part)  # which an absolute part replaces, as with os.path.join


def _about(location: Traced, legacy: str, claimed: str | None) -> list[Remark]:
    if claimed or PurePosixPath(legacy).is_relative_to(_MOUNTED):
        return []
    if PurePosixPath(legacy).is_absolute() or legacy.startswith("~"):
        return [Remark(location.keys, _ELSEWHERE)]
    return [Remark(location.keys, _ELSEWHERE), Remark(location.keys, _RELATIVE)]


def secret(name: str) -> str:
    """The name of the Secret that takes the place of credentials in the configuration."""
    return f"{name}-credentials"


def claimed(answers: Answers) -> Mapping[str, Any] | None:
    """The volume of the resource."""
    return {"persistentVolumeClaim": {"claimName": answers.claim.name}} if answers.claim else None
