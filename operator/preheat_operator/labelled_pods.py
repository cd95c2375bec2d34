"""The pods that carry a pipeline's label, by their metadata alone: what becomes of one leads to a look at its pipeline.

kopf would hold every pod whole while it lists them, and would not notice one that was deleted while nobody watched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx2

from preheat_operator.api import LABEL
from preheat_operator.follower import Follower, Key, Pace

PATH = "api/v1/pods"

Sighting = tuple[str, str]  # the pipeline in the label, and the pod's resourceVersion


class LabelledPods(Follower[Sighting]):
    """Calls `changed` with namespace and name of the pipeline that a pod names, or named before."""

    plural = "labelled pods"

    def __init__(self, http: httpx2.AsyncClient, changed: Callable[[str, str], None], pace: Pace | None = None) -> None:
        super().__init__(http, PATH, pace, selector=LABEL, metadata_only=True)
        self._tell = changed

    def keep(self, resource: Mapping[str, Any], known: Sighting | None) -> Sighting:
        """Which pipeline the pod names in which version."""
        metadata = resource["metadata"]
        return metadata["labels"][LABEL], metadata["resourceVersion"]

    def noticed(self, key: Key, before: Sighting | None, after: Sighting | None) -> None:
        """A pod that is moved to another pipeline is news for both."""
        for pipeline in {sighting[0] for sighting in (before, after) if sighting}:
            self._tell(key[0], pipeline)
