"""The CustomResourceDefinition for tests that need no release of the chart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.commands import wait_until
from cluster.lifecycle import Cluster

FILES = Path(__file__).parents[1] / "crds"
NAME = "customresourcedefinition/checkpointpipelines.preheat.dev"


@contextmanager
def installed(cluster: Cluster) -> Iterator[None]:
    """Install it, or bring it up to date. One that was not there is removed: Helm installs over no stranger's."""
    found = bool(cluster.kubectl("get", NAME, "--ignore-not-found").strip())
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", FILES)
    # kubectl itself gives up on one so new that it has no conditions yet.
    established = ("wait", "--for=condition=Established", NAME, "--timeout=30s")
    wait_until("CheckpointPipelines are known", lambda: bool(cluster.kubectl(*established)), 30)
    yield
    if not found:
        cluster.kubectl("delete", NAME, "--ignore-not-found", "--timeout=60s")
