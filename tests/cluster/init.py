"""The first process of the cluster's own process and mount namespaces: when it ends, all inside end with it.

Runs as a script with nothing but the standard library. Takes the scratch folder and the folders of the system that
the node's programs insist on; each of those is replaced, inside only, by one below the scratch folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main(scratch: Path, ready: Path, *folders: str) -> None:
    """Replace the folders, say so by making the file `ready`, then reap the orphans of containers until killed."""
    for folder in folders:
        own = scratch / "system" / folder.strip("/")
        own.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", own, folder], check=True)
    # Containers may ask for mount propagation, which needs a shared tree.
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    # An orphan of these two calls would be reaped below; there is always one child to wait for.
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "infinity"])
    ready.touch()
    while True:
        os.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
