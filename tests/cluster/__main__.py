"""The cluster from the shell: `python -m cluster prepare|up|down|status|images|kubectl ...`."""

from __future__ import annotations

import os
import sys

from cluster.binaries import KUBERNETES, binary, build_all
from cluster.commands import CommandError, DeadlineError, say
from cluster.host import ClusterUnavailable, install_packages, require_host
from cluster.images import base_image, our_image
from cluster.lifecycle import Cluster
from cluster.nginx import nginx

USAGE = """usage: python -m cluster VERB
  prepare   install packages, build the binaries and the base image, fetch nginx; quick when that is done
  images    build the operator's and the loader's image
  up        start the cluster, or find the one that runs; prints where its kubeconfig is
  down      end it and remove every trace, except of the cache
  status    say whether it runs, and what it shows
  kubectl   pass the remaining words to kubectl"""


def prepare() -> None:
    """Do all that takes long and needs doing once."""
    require_host()
    install_packages()
    build_all()
    base_image()
    nginx()


def images() -> None:
    """Build our images; a running cluster is not needed."""
    prepare()
    print(our_image("operator").reference)
    print(our_image("loader").reference)


def up() -> None:
    """Start the cluster."""
    cluster = Cluster.start()
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def down() -> None:
    """Stop the cluster."""
    require_host()
    Cluster.here().stop()
    say("the cluster is gone")


def status() -> None:
    """Show the cluster."""
    cluster = Cluster.here()
    if not cluster.processes.all_running():
        sys.exit("the cluster does not run: `make cluster-up` starts it")
    print(cluster.diagnose())
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def main(words: list[str]) -> None:
    """Carry out one verb; a failure is told in one line and ends with 1."""
    verbs = {verb.__name__: verb for verb in (prepare, images, up, down, status)}
    if words[:1] == ["kubectl"]:
        program = str(binary(KUBERNETES, "kubectl"))
        os.execv(program, [program, "--kubeconfig", str(Cluster.here().kubeconfig), *words[1:]])
    if len(words) != 1 or words[0] not in verbs:
        sys.exit(USAGE)
    try:
        verbs[words[0]]()
    except (ClusterUnavailable, CommandError, DeadlineError) as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main(sys.argv[1:])
