"""The one node: containerd, kubelet and kube-proxy on this machine, with containers of their own.

Everything is set so that it runs without systemd, on either version of control groups, and in a sandbox that may not
raise resource limits.
"""

from __future__ import annotations

import json
from pathlib import Path

from cluster import settings
from cluster.binaries import KUBERNETES, binary
from cluster.commands import run, wait_until
from cluster.control_plane import NODE_USER, kubeconfig
from cluster.host import overlay_works
from cluster.processes import Processes

PAUSE_IMAGE = "localhost/preheat-pause:1"
CGROUP = "preheat-cluster"
CGROUPS = Path("/sys/fs/cgroup")


def socket(scratch: Path) -> Path:
    """Where containerd listens."""
    return scratch / "containerd.sock"


def start_containerd(processes: Processes, scratch: Path) -> None:
    """Start the container runtime and wait until it answers."""
    config = scratch / "containerd.toml"
    config.write_text(_containerd_config(scratch))
    network = scratch / "cni" / "10-preheat.conflist"
    network.parent.mkdir()
    network.write_text(json.dumps(_pod_network(scratch), indent=2))
    processes.start("containerd", "containerd", "--config", config)
    ctr = ("ctr", "--address", socket(scratch))
    wait_until("containerd answers", lambda: bool(run(*ctr, "version")), 30)


def start_kubelet(processes: Processes, scratch: Path) -> None:
    """Start the kubelet and kube-proxy; the API server must be ready."""
    for folder in _cgroups():
        folder.mkdir(exist_ok=True)
    config = scratch / "kubelet.json"
    config.write_text(json.dumps(_kubelet_config(scratch), indent=2))
    processes.start(
        "kubelet", binary(KUBERNETES, "kubelet"),
        f"--config={config}", f"--kubeconfig={kubeconfig(scratch, NODE_USER)}", f"--cert-dir={scratch / 'kubelet-pki'}",
        f"--hostname-override={settings.NODE_NAME}", f"--node-ip={settings.BRIDGE_IP}",
    )  # fmt: skip
    proxy = scratch / "kube-proxy.json"
    proxy.write_text(json.dumps(_proxy_config(scratch), indent=2))
    processes.start("kube-proxy", binary(KUBERNETES, "kube-proxy"), f"--config={proxy}")


def images(scratch: Path) -> list[str]:
    """The references of the images that pods can use."""
    return run(*_ctr_images(scratch), "list", "--quiet").split()


def import_image(scratch: Path, archive: Path) -> None:
    """Give pods the image of an OCI archive, under the reference that it carries."""
    run(*_ctr_images(scratch), "import", archive)


def end_sandbox(scratch: Path, pod_uid: str) -> None:
    """End what holds a pod's namespaces, as a crash would; the kubelet then starts the whole pod again, in place."""
    ctr = ("ctr", "--address", socket(scratch), "--namespace", "k8s.io")
    labels = f'labels."io.kubernetes.pod.uid"=={pod_uid},labels."io.cri-containerd.kind"==sandbox'
    for sandbox in run(*ctr, "containers", "list", "--quiet", labels).split():
        run(*ctr, "tasks", "kill", "--signal", "SIGKILL", sandbox)


def remove_cgroups() -> None:
    """Remove the control groups that pods left, deepest first."""
    for top in _cgroups():
        below = sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for group in [*below, top] if top.exists() else []:
            group.rmdir()


def _ctr_images(scratch: Path) -> tuple[str | Path, ...]:
    return ("ctr", "--address", socket(scratch), "--namespace", "k8s.io", "images")


def _cgroups() -> list[Path]:
    """The top group of all pods, in each hierarchy: one with version 2, one for each controller with version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS / CGROUP]
    return [path / CGROUP for path in sorted(CGROUPS.iterdir()) if path.is_dir() and not path.is_symlink()]


def _containerd_config(scratch: Path) -> str:
    return f"""
version = 2
root = "{scratch}/containerd"
state = "/run/containerd"
[grpc]
address = "{socket(scratch)}"
[plugins."io.containerd.internal.v1.opt"]
path = "{scratch}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without the right to raise limits runc fails on a negative OOM score.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{"overlayfs" if overlay_works(scratch) else "native"}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{scratch}/cni"
"""


def _pod_network(scratch: Path) -> dict[str, object]:
    first_pod = settings.BRIDGE_IP.rsplit(".", 2)[0] + ".1.0"
    addresses = {
        "type": "host-local",
        "dataDir": str(scratch / "addresses"),
        "ranges": [[{"subnet": settings.POD_NETWORK, "rangeStart": first_pod, "gateway": settings.BRIDGE_IP}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": settings.BRIDGE, "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "preheat", "plugins": [bridge]}


def _kubelet_config(scratch: Path) -> dict[str, object]:
    behind_stub = Path("/run/systemd/resolve/resolv.conf")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": settings.BRIDGE_IP,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{socket(scratch)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "resolvConf": str(behind_stub if behind_stub.exists() else "/etc/resolv.conf"),
        # A container that ends is started again after a second, not after ten, twenty, forty: nobody waits gladly.
        "featureGates": {"KubeletCrashLoopBackOffMax": True},  # on by default since 1.35
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        # A full disk of the developer's is no reason to evict pods, nor to remove images that no registry has.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }


def _proxy_config(scratch: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        # Pods share one bridge: an answer that did not come back through this machine would not be recognised.
        "nftables": {"masqueradeAll": True},
        "clusterCIDR": settings.POD_NETWORK,
        "clientConnection": {"kubeconfig": str(kubeconfig(scratch, "system:kube-proxy"))},
        "hostnameOverride": settings.NODE_NAME,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0},
    }
