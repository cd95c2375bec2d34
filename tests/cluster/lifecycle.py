"""Start, use and stop the cluster: the whole interface for tests, the demo and the shell.

There is one cluster on a machine. Starting twice gives the same one; starting after a crash clears what the first left.
"""

from __future__ import annotations

import fcntl
import json
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import control_plane, network, node, settings
from cluster.binaries import HELM, KUBERNETES, binary, build_all
from cluster.commands import CommandError, run, say, wait_until
from cluster.host import install_packages, require_host
from cluster.oci import write_archive
from cluster.processes import Processes

MARK = "preheat-cluster"  # a folder without this file is not ours to remove


class Cluster:
    """A Kubernetes of one node on this machine."""

    bridge_ip = settings.BRIDGE_IP
    node_name = settings.NODE_NAME

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.processes = Processes(scratch)
        self.started_here = False

    @classmethod
    def here(cls) -> Cluster:
        """The cluster of this machine, running or not."""
        return cls(settings.scratch())

    @classmethod
    def start(cls) -> Cluster:
        """Start it, or take the one that runs; the node is ready then. ClusterUnavailable says why a machine is unfit."""
        require_host()
        cluster = cls.here()
        with _only_one():
            if not cluster.healthy():
                install_packages()
                build_all()
                cluster._clear()
                cluster._boot()
                cluster.started_here = True
        return cluster

    def stop(self) -> None:
        """End every process and container, and remove every mount, device, table and file of the cluster."""
        with _only_one():
            self._clear()

    def healthy(self) -> bool:
        """Whether every program runs and the API server and the node are ready."""
        try:
            return self.processes.all_running() and self._node_ready()
        except CommandError:
            return False

    @property
    def kubeconfig(self) -> Path:
        """Its administrator's kubeconfig."""
        return control_plane.kubeconfig(self.scratch, "admin")

    def kubectl(self, *arguments: str | Path, input: str | None = None, check: bool = True) -> str:  # noqa: A002
        """Run kubectl and return its output; with check=False a failure's message is returned instead of raised."""
        try:
            return run(binary(KUBERNETES, "kubectl"), "--kubeconfig", self.kubeconfig, *arguments, stdin=input)
        except CommandError as failure:
            if check:
                raise
            return str(failure)

    def helm(self, *arguments: str | Path) -> str:
        """Run helm and return its output."""
        return run(binary(HELM, "helm"), "--kubeconfig", self.kubeconfig, *arguments)

    def diagnose(self) -> str:
        """What a person needs to see when a test failed: nodes, pods, events and the last lines of every log."""
        questions = (
            ("get", "nodes", "-o", "wide"),
            ("get", "pods", "-A", "-o", "wide"),
            ("get", "events", "-A", "--sort-by=.lastTimestamp"),
        )
        parts = [f"$ kubectl {' '.join(words)}\n{self.kubectl(*words, check=False)}" for words in questions]
        for name in self.processes.names():
            state = "running" if self.processes.running(name) else "ENDED"
            parts.append(f"--- {name}: {state}\n{self.processes.log_tail(name, 15)}")
        return "\n".join(parts)

    def _boot(self) -> None:
        say(f"starting Kubernetes {KUBERNETES.version()} in {self.scratch}")
        started = time.monotonic()
        self.scratch.mkdir(parents=True)
        (self.scratch / MARK).touch()
        network.raise_network(self.scratch)
        self.processes.open_namespaces()
        control_plane.start_api_server(self.processes, self.scratch)
        node.start_containerd(self.processes, self.scratch)
        self._import_pause()
        control_plane.wait_for_api_server(self.scratch)
        control_plane.start_controllers(self.processes, self.scratch)
        node.start_kubelet(self.processes, self.scratch)
        wait_until(f"{self.node_name} is ready", self._node_ready, seconds=90, interval=0.25)
        wait_until("pods can be created", self._has_service_account, seconds=30, interval=0.25)
        say(f"node ready after {time.monotonic() - started:.0f} s")

    def _clear(self) -> None:
        if self.scratch.exists() and any(self.scratch.iterdir()) and not (self.scratch / MARK).exists():
            raise FileExistsError(
                f"{self.scratch} holds something else: set PREHEAT_CLUSTER_DIR to a folder of its own"
            )
        self.processes.close_namespaces()
        node.remove_cgroups()
        network.lower_network(self.scratch)
        if self.scratch.exists():
            shutil.rmtree(self.scratch)

    def _import_pause(self) -> None:
        archive = self.scratch / "pause.tar"
        write_archive(archive, binary(KUBERNETES, "pause"), node.PAUSE_IMAGE, platform.machine())
        run("ctr", "--address", node.socket(self.scratch), "--namespace", "k8s.io", "images", "import", archive)

    def _node_ready(self) -> bool:
        found = json.loads(self.kubectl("get", "node", self.node_name, "-o", "json"))
        return any(c["type"] == "Ready" and c["status"] == "True" for c in found["status"]["conditions"])

    def _has_service_account(self) -> bool:
        return bool(self.kubectl("get", "serviceaccount", "default"))


@contextmanager
def _only_one() -> Iterator[None]:
    settings.cache().mkdir(parents=True, exist_ok=True)
    with open(settings.cache() / "cluster.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
