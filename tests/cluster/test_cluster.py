"""The cluster itself: pods run restricted, reach Services, see the training environment; crashes are survived."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cluster.commands import wait_until
from cluster.lifecycle import Cluster

pytestmark = pytest.mark.cluster

RESTARTS = "jsonpath={.status.containerStatuses[0].restartCount}"
SERVE = "from http.server import SimpleHTTPRequestHandler, test; test(SimpleHTTPRequestHandler, port=8080)"
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
POD_SECURITY = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}


def container(name: str, image: str, script: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "command": ["python3", "-c", script],
        "imagePullPolicy": "Never",
        "securityContext": RESTRICTED,
        **more,
    }


def job(name: str, spec: dict[str, Any]) -> str:
    pod = {"restartPolicy": "Never", "securityContext": POD_SECURITY, **spec}
    content = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }
    return json.dumps(content)


def log_of_job(cluster: Cluster, namespace: str, name: str, seconds: float = 90) -> str:
    def ended() -> bool:
        status = json.loads(cluster.kubectl("get", "job", name, "-n", namespace, "-o", "json"))["status"]
        assert not status.get("failed"), cluster.kubectl("logs", f"job/{name}", "-n", namespace, "--all-containers")
        return bool(status.get("succeeded"))

    wait_until(f"job {name} is done", ended, seconds, interval=0.3)
    return cluster.kubectl("logs", f"job/{name}", "-n", namespace)


def test_a_restricted_pod_hands_a_file_on_and_reaches_the_api_server(cluster: Cluster) -> None:
    cluster.create_namespace("restricted-pods", enforce="restricted")
    shared = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    small = {"resources": {"limits": {"memory": "64Mi"}}}
    image = cluster.base_image()
    write = "open('/shared/word', 'w').write('warm')"
    read = """
import os, ssl, urllib.request
print(open('/shared/word').read())
authority = ssl.create_default_context(cafile='/var/run/secrets/kubernetes.io/serviceaccount/ca.crt')
host = os.environ['KUBERNETES_SERVICE_HOST']
print(host, urllib.request.urlopen(f'https://{host}/version', context=authority).status)
"""
    spec = {
        "initContainers": [container("write", image, write, **shared, **small)],
        "containers": [container("read", image, read, **shared)],
        "volumes": [{"name": "shared", "emptyDir": {}}],
    }
    try:
        cluster.kubectl("apply", "-n", "restricted-pods", "-f", "-", input=job("hand-on", spec))
        assert log_of_job(cluster, "restricted-pods", "hand-on").split() == ["warm", "10.214.0.1", "200"]
    finally:
        cluster.kubectl("delete", "namespace", "restricted-pods", "--wait=false")


def test_a_pod_reaches_another_through_a_service(cluster: Cluster, namespace: str) -> None:
    server = container("server", cluster.base_image(), SERVE)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "server", "labels": {"app": "server"}},
        "spec": {"containers": [server], "securityContext": POD_SECURITY, "terminationGracePeriodSeconds": 0},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(pod))
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(service))
    cluster.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/server", "--timeout=60s")
    ask = """
import os, time, urllib.error, urllib.request
url, deadline = f"http://{os.environ['SERVER_SERVICE_HOST']}/", time.monotonic() + 20
while True:
    try:
        print(urllib.request.urlopen(url, timeout=2).status)
        break
    except urllib.error.URLError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.2)
"""
    spec = {"containers": [container("ask", cluster.base_image(), ask)]}
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=job("ask", spec))
    assert log_of_job(cluster, namespace, "ask").strip() == "200"


def test_a_training_pod_imports_torch_as_an_ordinary_user(cluster: Cluster, namespace: str) -> None:
    environment = cluster.training_environment()
    cluster.kubectl("apply", "-f", "-", input=environment.volume_manifests(namespace))
    script = "import importlib.util, os, lightning, torch; print(os.getuid(), importlib.util.find_spec('preheat'))"
    mount = {"name": "training", "mountPath": environment.path, "readOnly": True}
    train = container("train", cluster.base_image(), script, volumeMounts=[mount])
    train["command"][0] = environment.python
    claim = {"name": "training", "persistentVolumeClaim": {"claimName": environment.claim, "readOnly": True}}
    spec = {"containers": [train], "volumes": [claim]}
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=job("train", spec))
    assert log_of_job(cluster, namespace, "train", seconds=180).split() == ["1000", "None"]


def test_the_loader_image_holds_a_shim_and_the_operator_image_an_operator(cluster: Cluster, namespace: str) -> None:
    look = "import importlib.util as util, pathlib; print([bool(util.find_spec(n)) for n in NAMES], SHIM)"
    shim = "sorted(path.name.partition('-')[0] for path in pathlib.Path('/shim').iterdir())"
    loader = look.replace("NAMES", "['preheat', 'botocore', 'torch', 'kopf']").replace("SHIM", shim)
    operator = look.replace("NAMES", "['preheat', 'preheat_operator', 'kopf', 'torch']").replace("SHIM", "'-'")
    spec = {
        "initContainers": [container("operator", cluster.build_image("operator"), operator)],
        "containers": [container("loader", cluster.build_image("loader"), loader)],
        "securityContext": POD_SECURITY | {"runAsUser": 65532},
    }
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=job("look", spec))
    said = log_of_job(cluster, namespace, "look")
    assert said.startswith("[True, True, False, False]"), said
    assert "'preheat', 'preheat'" in said
    said = cluster.kubectl("logs", "job/look", "-n", namespace, "-c", "operator")
    assert said.strip() == "[True, True, True, False] -"


def test_an_object_comes_back_from_s3_with_its_versions(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "object"
    client = cluster.s3.client()
    cluster.s3.make_bucket(namespace)
    client.put_bucket_versioning(Bucket=namespace, VersioningConfiguration={"Status": "Enabled"})
    for content in (b"first", b"second"):
        file.write_bytes(content)
        cluster.s3.put(namespace, "folder/key", file)
    found = client.list_object_versions(Bucket=namespace)["Versions"]
    contents = [
        client.get_object(Bucket=namespace, Key="folder/key", VersionId=version["VersionId"])["Body"].read()
        for version in found
    ]
    client.close()
    assert sorted(contents) == [b"first", b"second"]


def test_starting_again_takes_the_cluster_that_runs(cluster: Cluster) -> None:
    before = cluster.processes.pids("kube-apiserver")
    again = Cluster.start()
    assert not again.started_here
    assert before
    assert again.processes.pids("kube-apiserver") == before


def test_killed_programs_are_started_again_and_pods_live_on(cluster: Cluster, namespace: str) -> None:
    pod = {
        "containers": [container("server", cluster.base_image(), SERVE)],
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": 0,
    }
    content = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server"}, "spec": pod}
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(content))
    cluster.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/server", "--timeout=60s")
    for pid in cluster.processes.pids("kubelet") + cluster.processes.pids("containerd"):
        os.kill(pid, signal.SIGKILL)
    wait_until("the crash is noticed", lambda: not cluster.healthy(), seconds=30)
    again = Cluster.start()
    assert again.healthy()
    again.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/server", "--timeout=60s")
    assert again.kubectl("get", "pod", "server", "-n", namespace, "-o", RESTARTS).strip() == "0"
