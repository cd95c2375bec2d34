"""What must hold of a checkpoint's bytes; the `verify` stage sets it, whoever moves bytes obeys it.

A check that fails ends the run. One that only warns leaves a line in the log and an entry in what comes of the run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from preheat.errors import CheckpointError

#: The checks that may only warn.
Check = Literal["sha256", "md5", "crc64nvme", "etag", "crc32", "finite", "expect", "signature"]
CHECKS: tuple[str, ...] = get_args(Check)
#: Warnings that are kept of each check; one damaged file can give as many as it has tensors.
KEPT = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checks:
    """Verified on the bytes as they pass."""

    sha256: str | None = None  # of the whole object, as all digests in hexadecimal; makes the loader read all of it
    crc32: bool = True  # of every zip record that carries one
    finite: bool = False  # no NaN or infinity among the weights
    md5: str | None = None  # of the whole object
    crc64nvme: str | None = None  # of the whole object
    etag: str | None = None  # that the server gives the object
    warn_only: tuple[str, ...] = ()  # of CHECKS
    signed: Mapping[str, str] | None = None  # SHA-256 by name of the files that a signature vouches for

    @property
    def whole(self) -> bool:
        """Whether every byte of the object has to be read."""
        return self.ordered or self.crc64nvme is not None

    @property
    def ordered(self) -> bool:
        """Whether they have to be read in order, by one thread."""
        return bool(self.sha256 or self.md5) or self.signed is not None

    @property
    def of_all(self) -> tuple[str, ...]:
        """What is compared of the object as one, in a few words."""
        wanted = (
            ("signature", self.signed is not None), ("SHA-256", self.sha256), ("MD5", self.md5),
            ("CRC-64/NVME", self.crc64nvme), ("ETag", self.etag),
        )  # fmt: skip
        return tuple(said for said, done in wanted if done)

    def to_json(self) -> dict[str, Any]:
        """For a manifest, or a program; without what nobody asked for."""
        asked = ("md5", "crc64nvme", "etag")
        declared: dict[str, Any] = {name: getattr(self, name) for name in asked if getattr(self, name)}
        if self.warn_only:
            declared["warnOnly"] = list(self.warn_only)
        if self.signed is not None:
            declared["signed"] = dict(self.signed)
        return {"sha256": self.sha256, "crc32": self.crc32, "finite": self.finite, **declared}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Checks:
        """What `to_json` wrote."""
        return cls(
            *(document["sha256"], document["crc32"], document["finite"]),
            *(document.get("md5"), document.get("crc64nvme"), document.get("etag")),
            warn_only=tuple(document.get("warnOnly", ())),
            signed=document.get("signed"),
        )


class Findings:
    """What checks find wrong: raised at once, but kept and logged where the check only warns. Safe in threads."""

    def __init__(self, warn_only: Collection[str] = ()) -> None:
        self._warn_only = frozenset(warn_only)
        self._lock = threading.Lock()
        self._seen: set[int] = set()
        self._kept: dict[str, list[str]] = {}
        self._more: dict[str, int] = {}

    def add(self, check: str, error: CheckpointError) -> None:
        """Raise what `check` found, or keep it."""
        if check not in self._warn_only:
            raise error
        self.keep(check, error)

    def keep(self, check: str, error: CheckpointError) -> None:
        """Keep what is found; what is there already is not kept twice."""
        message = error.args[0]
        with self._lock:
            if hash((check, message)) in self._seen:
                return
            self._seen.add(hash((check, message)))
            kept = self._kept.setdefault(check, [])
            if len(kept) == KEPT:
                self._more[check] = self._more.get(check, 0) + 1
                return
            kept.append(message)
        log.warning("warning: %s", message)

    def any_of(self, check: str) -> bool:
        """Whether `check` has found something."""
        return check in self._kept

    @property
    def warnings(self) -> tuple[str, ...]:
        """The messages, check by check, sorted; the last of many says how many it stands for."""
        found: list[str] = []
        for check in CHECKS:
            found += sorted(self._kept.get(check, ()))
            if more := self._more.get(check):
                found.append(f"{check}: {more} more")
        return tuple(found)
