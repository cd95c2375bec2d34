"""Where the cluster keeps things and which addresses it uses: the only place that knows.

Everything a running cluster writes lies in one scratch folder; what is expensive to make again lies in the cache.
"""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
MODULES = Path(__file__).resolve().parent / "modules"

NODE_NAME = "node1"
BRIDGE = "preheat0"
BRIDGE_IP = "10.213.0.1"
POD_NETWORK = "10.213.0.0/16"
SERVICE_NETWORK = "10.214.0.0/16"
API_PORT = 6443
S3_PORT = 7070
ETCD_PORTS = (23790, 23791)


def cache() -> Path:
    """Built binaries and images, kept between clusters and checkouts."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "preheat"
    return Path(os.environ.get("PREHEAT_CACHE") or default)


def scratch() -> Path:
    """All that a running cluster writes; removed when it stops."""
    return Path(os.environ.get("PREHEAT_CLUSTER_DIR") or "/var/lib/preheat-cluster")
