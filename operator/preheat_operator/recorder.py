"""Posts Events, each at most once: an Event's name is derived from what it tells, so the API server refuses another."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import httpx2
import structlog
from lightkube import ApiError, AsyncClient

from preheat_operator import api, kube
from preheat_operator.announcement import Announcement

COMPONENT = "preheat-controller"
_REMEMBERED = 50_000

_log = structlog.get_logger(__name__)


class Recorder:
    """Posts announcements as Events of the object's namespace; what cannot be posted is logged and left.

    An operator that may post none says so, and tries again after `pause` seconds with what is then to be told.
    """

    def __init__(self, client: AsyncClient, pause: float = 60) -> None:
        self._client = client
        self._pause = pause
        self._silent_until = 0.0
        self._posted: dict[str, None] = {}

    async def post(self, announcement: Announcement, now: datetime) -> bool:
        """Whether this was news; False when it had been told before."""
        name = announcement.event_name
        if name in self._posted or time.monotonic() < self._silent_until:
            return False
        try:
            event = kube.Event(**_event(announcement, now))
            await self._client.create(event)
        except ApiError as error:
            if error.status.code == 403 and not _going(error):
                self._silent_until = time.monotonic() + self._pause
            if error.status.code != 404 and error.status.reason != "AlreadyExists" and not _going(error):
                _log.warning("event not posted", name=announcement.name, error=str(error))
                return False
            fresh = False
        except httpx2.HTTPError as error:
            _log.warning("event not posted", name=announcement.name, error=repr(error))
            return False
        else:
            fresh = True
        self._remember(name)
        return fresh

    def remember(self, announcement: Announcement) -> None:
        """It was told by another process."""
        self._remember(announcement.event_name)

    def _remember(self, name: str) -> None:
        self._posted[name] = None
        if len(self._posted) > _REMEMBERED:
            del self._posted[next(iter(self._posted))]


def _going(error: ApiError) -> bool:
    """Whether the namespace takes nothing new because it is being deleted."""
    details = error.status.details
    return any(cause.reason == "NamespaceTerminating" for cause in (details and details.causes) or ())


def _event(announcement: Announcement, now: datetime) -> dict[str, Any]:
    moment = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    version = "v1" if announcement.kind == "Pod" else f"{api.GROUP}/{api.VERSION}"
    return {
        "metadata": {"name": announcement.event_name, "namespace": announcement.namespace},
        "involvedObject": {
            "apiVersion": version,
            "kind": announcement.kind,
            "namespace": announcement.namespace,
            "name": announcement.name,
            "uid": announcement.uid,
        },
        "type": announcement.type,
        "reason": announcement.reason,
        "message": announcement.message,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": COMPONENT},
    }
