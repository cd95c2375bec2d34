"""Pods whose training died, read whole at the moment when they fail: some owners delete them before anybody looks.

A training operator that makes a failed pod anew, or a JobSet that starts again, leaves seconds or less. What is kept of
a pod is its report alone, and of those that fail otherwise not even that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx2

from preheat_operator.api import LABEL
from preheat_operator.follower import Follower, Key, Pace
from preheat_operator.labelled_pods import PATH
from preheat_operator.observation import PodReport, observe

FAILED = "status.phase=Failed"

Fallen = tuple[str, PodReport | None]  # the pipeline in the label, and what the pod tells where its training died


class FailedPods(Follower[Fallen]):
    """Calls `fell` with namespace and name of the pipeline and the report of each pod whose training died."""

    plural = "failed pods"

    def __init__(
        self, http: httpx2.AsyncClient, fell: Callable[[Key, PodReport], None], pace: Pace | None = None
    ) -> None:
        super().__init__(http, PATH, pace, selector=LABEL, fields=FAILED)
        self._tell = fell

    def keep(self, resource: Mapping[str, Any], known: Fallen | None) -> Fallen:
        """What the pod tells."""
        report = observe(resource)
        return resource["metadata"]["labels"][LABEL], report if report.deaths else None

    def noticed(self, key: Key, before: Fallen | None, after: Fallen | None) -> None:
        """One that is there, or was deleted since it was seen, has been told of."""
        if after and after[1]:
            self._tell((key[0], after[0]), after[1])


class Untold:
    """Reports of such pods, by pipeline, until a status holds what they tell."""

    def __init__(self) -> None:
        self._reports: dict[Key, dict[str, PodReport]] = {}

    def add(self, key: Key, report: PodReport) -> None:
        """One that no status holds."""
        self._reports.setdefault(key, {})[report.uid] = report

    def of(self, key: Key) -> list[PodReport]:
        """Those of a pipeline."""
        return list(self._reports.get(key, {}).values())

    def told(self, key: Key, reports: Iterable[PodReport]) -> None:
        """Let these go; what fell meanwhile stays."""
        done = {report.uid for report in reports}
        left = {uid: report for uid, report in self._reports.pop(key, {}).items() if uid not in done}
        if left:
            self._reports[key] = left
