"""nginx for the tests of HTTP sources: Debian's own program, unpacked beside the built binaries, installed nowhere.

apt checks its signature; the version is the one of this machine's release, as of all its packages.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from cluster import settings
from cluster.commands import only_one, run, say
from cluster.host import ClusterUnavailable, refresh_lists


def nginx() -> Path:
    """The program, fetched when it was never done."""
    refresh_lists()
    version = _version()
    folder = settings.cache() / "bin" / f"nginx-{version.replace(':', '-')}"
    if not folder.exists():
        with only_one(folder.parent / "lock"):
            if not folder.exists():
                _fetch(version, folder)
    return folder / "usr/sbin/nginx"


def _fetch(version: str, folder: Path) -> None:
    say(f"fetching nginx {version}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        run("apt-get", "-qq", "download", f"nginx={version}", cwd=Path(scratch))
        [package] = Path(scratch).glob("nginx_*.deb")
        run("dpkg-deb", "--extract", package, f"{scratch}/files")
        run(f"{scratch}/files/usr/sbin/nginx", "-v")  # its libraries are those of every Debian
        Path(scratch, "files").rename(folder)


def _version() -> str:
    found = re.search(r"Candidate: (\S+)", run("apt-cache", "policy", "nginx"))
    if not found or found[1] == "(none)":
        raise ClusterUnavailable("this release has no package nginx, which the tests of HTTP sources serve with")
    return found[1]
