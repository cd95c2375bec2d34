"""Start, use and stop the cluster: the whole interface for tests, the demo and the shell.

There is one cluster on a machine. Starting twice gives the same one; starting after a crash mends it, or clears
what the first left and makes another.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from datetime import datetime
from pathlib import Path

from cluster import control_plane, network, node, settings
from cluster.binaries import HELM, KUBERNETES, NEWEST, binary, build_all
from cluster.commands import CommandError, DeadlineError, only_one, run, say, wait_until
from cluster.host import install_packages, require_host
from cluster.images import Image, ImageName, base_image, our_image
from cluster.oci import write_archive
from cluster.processes import Processes
from cluster.s3 import S3Server, s3_server
from cluster.training import TrainingEnvironment, training_environment

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
        """Start it, or take the one that runs; the node is ready then. ClusterUnavailable: this machine is unfit."""
        require_host()
        cluster = cls.here()
        with only_one(settings.cache() / "cluster.lock"):
            if not cluster.healthy() and not cluster._mend():
                install_packages()
                build_all()
                cluster._clear()
                cluster._boot()
                cluster.started_here = True
        return cluster

    def stop(self) -> None:
        """End every process and container, and remove every mount, device, table and file of the cluster."""
        with only_one(settings.cache() / "cluster.lock"):
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

    def create_namespace(self, name: str, enforce: str | None = None) -> None:
        """Create a namespace and wait until pods can be created in it; `enforce` names a Pod Security level."""
        self.kubectl("create", "namespace", name)
        if enforce:
            self.kubectl("label", "namespace", name, f"pod-security.kubernetes.io/enforce={enforce}")
        self._await_service_account(name)

    def end_sandbox(self, pod_uid: str) -> None:
        """Have a pod start again in place, as after a crash of its sandbox: containers anew, volumes as they are."""
        node.end_sandbox(self.scratch, pod_uid)

    def build_image(self, name: ImageName) -> str:
        """Build our operator or loader image from the checkout, give it to pods, and return its reference."""
        return self._offer(our_image(name))

    def base_image(self) -> str:
        """The reference of the image for other pods: this machine's own release, with /usr/bin/python3."""
        return self._offer(base_image())

    @property
    def s3(self) -> S3Server:
        """The S3 server, started on first use."""
        return s3_server(self.processes, self.scratch)

    def training_environment(self) -> TrainingEnvironment:
        """A virtual environment with torch and Lightning, for pods of the base image to mount."""
        return training_environment()

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

    def _mend(self) -> bool:
        """Start again what ended by itself; False when that is not enough."""
        if not self.processes.namespaces_open() or not self.kubeconfig.exists():
            return False
        say("starting again what ended in the cluster")
        restarted = time.time()

        def mended() -> bool:
            # More than once: a kubelet that is quicker than containerd gives up. And what the node said before the
            # crash says nothing.
            return not self.processes.restart_ended() and self._node_ready(since=restarted)

        try:
            wait_until("the node is ready again", mended, seconds=30, interval=0.5)
        except DeadlineError:
            return False
        return True

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
        self._await_service_account("default")
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
        write_archive(archive, binary(NEWEST, "pause"), node.PAUSE_IMAGE, platform.machine())
        node.import_image(self.scratch, archive)

    def _offer(self, image: Image) -> str:
        if image.reference not in node.images(self.scratch):
            node.import_image(self.scratch, image.archive)
        return image.reference

    def _node_ready(self, since: float = 0) -> bool:
        found = json.loads(self.kubectl("get", "node", self.node_name, "-o", "json"))
        return any(
            said["type"] == "Ready"
            and said["status"] == "True"
            and datetime.fromisoformat(said["lastHeartbeatTime"]).timestamp() >= int(since)
            for said in found["status"]["conditions"]
        )

    def _await_service_account(self, namespace: str) -> None:
        # Pods are refused before the controller manager has made it.
        account = ("get", "serviceaccount", "default", "--namespace", namespace)
        wait_until(f"pods can be created in {namespace}", lambda: bool(self.kubectl(*account)), 30, interval=0.2)
