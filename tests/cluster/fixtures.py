"""pytest's way to the cluster: one for the whole run, and a namespace for each test that wants one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from cluster.host import ClusterUnavailable
from cluster.lifecycle import Cluster
from cluster.training import LABEL


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The machine's cluster; one that ran before stays, as does every one with PREHEAT_KEEP_CLUSTER set."""
    try:
        found = Cluster.start()
    except ClusterUnavailable as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no cluster: {reason}")
        pytest.skip(f"no cluster: {reason}")
    yield found
    if found.started_here and not os.environ.get("PREHEAT_KEEP_CLUSTER"):
        found.stop()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace in which pods can be created; it and its volumes are deleted afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.create_namespace(name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    cluster.kubectl("delete", "persistentvolume", "--selector", f"{LABEL}={name}", "--wait=false")
