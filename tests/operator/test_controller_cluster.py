"""The controller as a process against the real API server. Pods get their statuses by hand: no node runs them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lightkube import AsyncClient, KubeConfig

from crds import installed
from preheat_operator import kube
from preheat_operator.controller import Controller
from preheat_operator.settings import Settings

pytestmark = pytest.mark.cluster

SPEC = {"stages": [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]}
SOURCE = {"uri": "https://models.example.org/a.ckpt", "version": "e1", "sizeBytes": 600, "format": "torch-zip",
          "tensors": 4, "parameters": 100, "selectedBytes": 400}  # fmt: skip
TYPES = ("Ready", "Reconciling", "Stalled", "SourceResolved", "Loading")
NOT_FOUND = {"outcome": "failed", "reason": "NotFound", "message": "404 for a.ckpt", "remedy": "Check the URL"}


class Process:
    """`python -m preheat_operator controller` with the cluster's kubeconfig."""

    def __init__(self, cluster, log: Path, check: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log
        environment = {
            **os.environ,
            "KUBECONFIG": str(cluster.kubeconfig),
            "PREHEAT_NAMESPACE": "default",
            "PREHEAT_LOADER_IMAGE": "loader:1",
            "PREHEAT_HEALTH_PORT": str(self.port),
            "PREHEAT_CHECK": check,
        }
        with log.open("ab") as output:
            command = [sys.executable, "-m", "preheat_operator", "controller"]
            self.popen = subprocess.Popen(command, env=environment, stderr=output, stdout=output)

    def ready(self) -> bool:
        assert self.popen.poll() is None, self.log.read_text()
        return self.get("/readyz") == "ok"

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.read().decode()
        except OSError as error:
            return str(error)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.popen.send_signal(how)
        return self.popen.wait(60)


@contextmanager
def running(cluster, log: Path, check: str = "false") -> Iterator[Process]:
    process = Process(cluster, log, check)
    try:
        eventually(process.ready)
        yield process
    finally:
        if process.popen.poll() is None:
            process.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def crds(cluster) -> Iterator[None]:
    with installed(cluster):
        yield


@pytest.fixture(scope="module")
def controller(cluster, crds, tmp_path_factory) -> Iterator[Process]:
    with running(cluster, tmp_path_factory.mktemp("controller") / "log") as process:
        yield process


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)
    return found


class Tenant:
    """What a user does in one namespace."""

    def __init__(self, cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    def kubectl(self, *words: str, stdin: Any = None, check: bool = True) -> str:
        text = json.dumps(stdin) if stdin is not None else None
        return self.cluster.kubectl("--namespace", self.namespace, *words, input=text, check=check)

    def apply(self, spec: Any = SPEC, name: str = "finetune") -> None:
        meta = {"name": name, "namespace": self.namespace}
        resource = {"apiVersion": "preheat.dev/v1alpha1", "kind": "CheckpointPipeline", "metadata": meta, "spec": spec}
        self.kubectl("apply", "-f", "-", stdin=resource)

    def pipeline(self, name: str = "finetune") -> dict[str, Any]:
        return json.loads(self.kubectl("get", "checkpointpipeline", name, "-o", "json"))

    def condition(self, kind: str = "Ready", name: str = "finetune") -> dict[str, Any]:
        conditions = self.pipeline(name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def counts(self) -> dict[str, int]:
        return self.pipeline().get("status", {}).get("pods", {})

    def pod(self, name: str, *, loader: bool = True, pipeline: str = "finetune") -> None:
        """A pod that no node will take, with or without the loader that the webhook would have added."""
        found = self.pipeline(pipeline)["metadata"]
        made_from = json.dumps({key: found[key] for key in ("name", "namespace", "uid", "generation")})
        init = {"name": "preheat-loader", "image": "l", "env": [{"name": "PREHEAT_PIPELINE", "value": made_from}]}
        spec = {"nodeSelector": {"no": "node"}, "containers": [{"name": "train", "image": "t"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        if loader:
            spec["initContainers"] = [init]
        self.kubectl("create", "-f", "-", stdin=pod)
        # Labelled afterwards, so that a webhook or policy of an installed chart has no say in it.
        self.kubectl("label", "pod", name, f"preheat.dev/pipeline={pipeline}")

    def report(self, pod: str, code: int | None, message: Any = None) -> None:
        """Write what a kubelet would: the loader runs (None) or ended with `code` and `message`."""
        ended = {"exitCode": code, "finishedAt": now(), "message": json.dumps(message), "reason": "x"}
        state = {"running": {"startedAt": now()}} if code is None else {"terminated": ended}
        loader = {"name": "preheat-loader", "image": "l", "imageID": "", "ready": code == 0, "restartCount": 0}
        patch = {"status": {"initContainerStatuses": [{**loader, "state": state}]}}
        self.kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", json.dumps(patch))

    def events(self, reason: str) -> list[dict[str, Any]]:
        found = self.kubectl("get", "events", "--field-selector", f"reason={reason}", "-o", "json")
        return json.loads(found)["items"]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def tenant(cluster, namespace) -> Tenant:
    return Tenant(cluster, namespace)


def test_a_new_pipeline_has_its_conditions_at_once_and_nothing_else_of_ours(controller, tenant) -> None:
    tenant.apply()
    eventually(lambda: tenant.condition())
    found = tenant.pipeline()
    assert tenant.condition()["message"] == "accepted; source not read yet"
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"] == 1
    assert {c["type"] for c in found["status"]["conditions"]} == set(TYPES)
    assert "finalizers" not in found["metadata"]
    assert set(found["metadata"].get("annotations", {})) == {"kubectl.kubernetes.io/last-applied-configuration"}


def test_pods_are_counted_through_their_phases(controller, tenant) -> None:
    tenant.apply()
    for name in ("a", "b"):
        tenant.pod(name)
    tenant.pod("plain", loader=False)
    eventually(lambda: tenant.counts().get("matched") == 3)
    assert tenant.counts() == {
        "matched": 3,
        "injected": 2,
        "loading": 2,
        "loaded": 0,
        "continued": 0,
        "failed": 0,
        "missed": 1,
    }
    tenant.report("a", None)
    tenant.report("b", 0, {"outcome": "loaded", "source": SOURCE})
    eventually(lambda: tenant.counts().get("loaded") == 1)
    status = tenant.pipeline()["status"]
    assert status["source"] == SOURCE
    assert tenant.condition()["message"] == f"checkpoint {SOURCE['uri']} (torch-zip, 4 tensors, 400 B) loaded by 1 pod"
    [missed] = [e for e in tenant.events("NotInjected") if e["involvedObject"]["kind"] == "Pod"]
    assert missed["involvedObject"]["name"] == "plain"
    assert missed["type"] == "Warning"


def test_a_failure_reaches_the_status_and_both_objects_events(controller, tenant) -> None:
    tenant.apply()
    tenant.pod("a")
    tenant.report("a", 11, NOT_FOUND)
    eventually(lambda: tenant.condition().get("status") == "False")
    assert tenant.condition()["reason"] == "NotFound"
    assert tenant.condition()["message"] == "pod a: 404 for a.ckpt. Check the URL"
    [failure] = tenant.pipeline()["status"]["failures"]
    assert (failure["pod"], failure["reason"], failure["remedy"]) == ("a", "NotFound", "Check the URL")
    eventually(lambda: len(tenant.events("NotFound")) == 2)
    assert {e["involvedObject"]["kind"] for e in tenant.events("NotFound")} == {"Pod", "CheckpointPipeline"}
    assert "404 for a.ckpt" in tenant.kubectl("describe", "checkpointpipeline", "finetune")
    assert 'preheat_loader_failures_total{reason="NotFound"}' in controller.get("/metrics")


def test_a_training_that_goes_on_without_its_checkpoint_is_counted_and_told(controller, tenant) -> None:
    tenant.apply({**SPEC, "onFailure": "Continue"})
    tenant.pod("a")
    tenant.report("a", 0, {**NOT_FOUND, "outcome": "continued"})
    eventually(lambda: tenant.counts().get("continued") == 1)
    assert tenant.counts()["failed"] == tenant.counts()["loaded"] == 0
    assert tenant.condition()["message"] == "pod a: trains from its initial weights: 404 for a.ckpt. Check the URL"
    eventually(lambda: len(tenant.events("NotFound")) == 2)
    assert 'preheat_pods{phase="continued"}' in controller.get("/metrics")


def test_a_deleted_pod_is_counted_no_more_and_its_failure_remembered(controller, tenant) -> None:
    tenant.apply()
    tenant.pod("a")
    tenant.report("a", 11, NOT_FOUND)
    eventually(lambda: tenant.counts().get("failed") == 1)
    tenant.kubectl("delete", "pod", "a", "--grace-period=0", "--force")
    eventually(lambda: tenant.counts().get("matched") == 0)
    assert tenant.condition()["reason"] == "NotFound"
    assert tenant.pipeline()["status"]["failures"][0]["pod"] == "a"


def test_a_changed_spec_is_observed_and_starts_afresh(controller, tenant) -> None:
    tenant.apply()
    tenant.pod("a")
    tenant.report("a", 11, NOT_FOUND)
    eventually(lambda: tenant.condition().get("reason") == "NotFound")
    tenant.apply({"stages": [{"http": {"url": "https://models.example.org/b.ckpt"}}, {"weightsOnly": {}}]})
    eventually(lambda: tenant.pipeline()["status"]["observedGeneration"] == 2)
    assert tenant.condition()["reason"] == "Accepted"
    assert "made from an earlier generation" in tenant.condition()["message"]


def test_a_relabelled_pod_is_counted_where_it_went(controller, tenant) -> None:
    tenant.apply()
    tenant.apply(name="other")
    tenant.pod("a")
    eventually(lambda: tenant.counts().get("matched") == 1)
    tenant.kubectl("label", "pod", "a", "preheat.dev/pipeline=other", "--overwrite")
    eventually(lambda: tenant.counts().get("matched") == 0)
    eventually(lambda: tenant.pipeline("other")["status"]["pods"]["matched"] == 1)


def test_a_quiet_pipeline_is_not_written(controller, tenant) -> None:
    tenant.apply()
    tenant.pod("a")
    eventually(lambda: tenant.counts().get("matched") == 1)
    version = tenant.pipeline()["metadata"]["resourceVersion"]
    for number in range(5):
        tenant.kubectl("annotate", "pod", "a", f"n={number}", "--overwrite")
    tenant.apply(name="later")
    eventually(lambda: tenant.condition(name="later"))
    assert tenant.pipeline()["metadata"]["resourceVersion"] == version


def test_a_foreign_status_is_put_right(controller, tenant) -> None:
    tenant.apply()
    eventually(lambda: tenant.condition())
    wrong = {"status": {"pods": {"loaded": 99}, "source": {"uri": "s3://x/y"}}}
    tenant.kubectl("patch", "ckpt", "finetune", "--subresource=status", "--type=merge", "-p", json.dumps(wrong))
    eventually(lambda: tenant.counts().get("loaded") == 0)


def test_a_namespace_goes_with_everything_in_it(controller, cluster, crds) -> None:
    name = "test-going"
    cluster.kubectl("create", "namespace", name)
    tenant = Tenant(cluster, name)
    tenant.apply()
    eventually(lambda: tenant.condition())
    cluster.kubectl("delete", "namespace", name, "--timeout=60s")
    assert controller.popen.poll() is None


def test_one_that_was_killed_catches_up_and_deleting_never_waited(cluster, crds, tenant, tmp_path) -> None:
    with running(cluster, tmp_path / "first") as first:
        tenant.apply()
        tenant.apply(name="doomed")
        tenant.pod("a")
        eventually(lambda: tenant.counts().get("matched") == 1)
        first.end(signal.SIGKILL)
    tenant.report("a", 11, NOT_FOUND)
    tenant.kubectl("delete", "ckpt", "doomed", "--timeout=10s")
    with running(cluster, tmp_path / "second") as second:
        eventually(lambda: tenant.condition().get("reason") == "NotFound")
        eventually(lambda: len(tenant.events("NotFound")) == 2)
        second.end(signal.SIGKILL)
    with running(cluster, tmp_path / "third"):
        tenant.report("a", 0, {"outcome": "loaded", "source": SOURCE})
        eventually(lambda: tenant.condition().get("reason") == "Loaded")
    assert len(tenant.events("NotFound")) == 2


def test_two_at_once_agree(controller, cluster, tenant, tmp_path) -> None:
    with running(cluster, tmp_path / "other"):
        tenant.apply()
        for number in range(5):
            tenant.pod(f"p{number}")
            tenant.report(f"p{number}", 0, {"outcome": "loaded", "source": SOURCE})
        eventually(lambda: tenant.counts().get("loaded") == 5)
    [_] = [e for e in tenant.events("CheckpointLoaded") if e["involvedObject"]["name"] == "p0"]


def test_it_ends_in_time_when_told_to(cluster, crds, tenant, tmp_path) -> None:
    with running(cluster, tmp_path / "log") as process:
        tenant.apply()
        eventually(lambda: tenant.condition())  # kopf watches by now: while it still scans, its end is an error
        began = time.monotonic()
        assert process.end() == 0, process.log.read_text()
        assert time.monotonic() - began < 10


async def test_a_stale_read_is_refused_and_read_again(cluster, crds, tenant) -> None:
    tenant.apply()
    client = AsyncClient(config=KubeConfig.from_file(cluster.kubeconfig), field_manager="test")
    controller = Controller(client, Settings("default", "loader:1", check=False))
    key = (tenant.namespace, "finetune")
    stale = await client.get(kube.CheckpointPipeline, "finetune", namespace=tenant.namespace)
    await asyncio.to_thread(tenant.kubectl, "label", "ckpt", "finetune", "a=b")
    await controller._write(key, stale, {"observedGeneration": 7})
    assert tenant.pipeline().get("status", {}).get("observedGeneration") != 7
    assert len(controller.worklist) == 1
    await controller.worklist.close()
    await controller.refresh(key)
    assert tenant.condition()["reason"] == "Accepted"
    await controller.refresh((tenant.namespace, "gone"))
    await client.close()
