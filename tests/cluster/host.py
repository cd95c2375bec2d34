"""What this machine must be and have before a cluster can run on it.

Installs the missing Debian packages, and says so; refuses machines that cannot run a node, with one clear sentence.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

# What a package is needed for is found by the file it brings.
PACKAGES = {
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "buildah": "/usr/bin/buildah",
    "mmdebstrap": "/usr/bin/mmdebstrap",
    "nftables": "/usr/sbin/nft",
    "iproute2": "/usr/sbin/ip",
    "openssl": "/usr/bin/openssl",
    "python3-venv": "/usr/lib/python3/dist-packages/../../python3.11/ensurepip/__init__.py",
}


class ClusterUnavailable(Exception):
    """This machine cannot run the cluster; the text is a reason that a person can act on."""


def say(line: str) -> None:
    """Report one step to the person who waits."""
    print(f"==> {line}", file=sys.stderr, flush=True)
