"""What this machine must be and have before a cluster can run on it.

Installs the missing Debian packages and says so; refuses a machine that cannot run a node, in one clear sentence.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from pathlib import Path

from cluster.commands import run, say

# What a package is needed for is found by a file that it brings.
PACKAGES = {
    "buildah": "/usr/bin/buildah",
    "ca-certificates": "/etc/ssl/certs/ca-certificates.crt",
    "containerd": "/usr/bin/containerd",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "/usr/sbin/ip",
    "mmdebstrap": "/usr/bin/mmdebstrap",
    "nftables": "/usr/sbin/nft",
    "openssl": "/usr/bin/openssl",
    "python3": "/usr/bin/python3",
    "runc": "/usr/sbin/runc",
}
# Pods get the same interpreter from the base image, so a virtual environment made here works there.
PYTHON = Path("/usr/bin/python3")
OLDEST_PYTHON = (3, 11)
STALE_AFTER_SECONDS = 7 * 86400


class ClusterUnavailable(Exception):  # noqa: N818 - what a machine is, not what went wrong
    """This machine cannot run the cluster; the text is a reason that a person can act on."""


def require_host() -> None:
    """Raise ClusterUnavailable unless this is Linux on a Debian-like system, as root, with Go and a recent Python."""
    if platform.system() != "Linux":
        raise ClusterUnavailable("the cluster needs Linux: its node is this machine")
    if os.geteuid() != 0:
        raise ClusterUnavailable("the cluster needs root: it makes containers, a bridge and mounts; run it with sudo")
    if shutil.which("apt-get") is None:
        raise ClusterUnavailable("the cluster needs Debian or Ubuntu: containerd and buildah come from their packages")
    if shutil.which("go") is None:
        raise ClusterUnavailable("the cluster needs Go on PATH: Kubernetes is built from its modules")
    if PYTHON.exists() and python_version() < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise ClusterUnavailable(f"the cluster needs a release whose {PYTHON} is {wanted} or newer: its pods run it")


def install_packages() -> None:
    """Install the Debian packages that are missing."""
    missing = [name for name, file in PACKAGES.items() if not Path(file).exists()]
    if not missing:
        return
    say(f"installing Debian packages: {' '.join(missing)}")
    refresh_lists()
    _apt("install", "--yes", "--no-install-recommends", *missing)


def refresh_lists() -> None:
    """See to it that apt knows which packages there are."""
    if _lists_are_stale():
        _apt("update")


def codename() -> str:
    """The release this machine runs, such as `bookworm`: images are made from the same one."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def overlay_works(folder: Path) -> bool:
    """Whether overlay mounts can lie in this folder: they do not nest, so not inside most containers."""
    return run("stat", "--file-system", "--format=%T", folder).strip() != "overlayfs"


def python_version() -> tuple[int, ...]:
    """The version of the distribution's own interpreter, not of the one that runs this."""
    found = re.findall(r"\d+", run(PYTHON, "--version"))
    return tuple(int(part) for part in found)


def _lists_are_stale() -> bool:
    lists = list(Path("/var/lib/apt/lists").glob("*_Packages*"))
    return not lists or max(file.stat().st_mtime for file in lists) < time.time() - STALE_AFTER_SECONDS


def _apt(*arguments: str) -> None:
    run("apt-get", "-qq", *arguments, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
