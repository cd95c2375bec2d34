"""A training that saves, beside the container that sends: killed on the way it goes on, and the pod ends with all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.commands import wait_until
from cluster.lifecycle import Cluster
from e2e.tenant import BUCKET, PYTHON, SECONDS, Tenant
from preheat.bundle.manifest import Manifest, Pipeline, SourceFacts

pytestmark = pytest.mark.cluster

SIZE = 24 << 20
SAVED = 3
MANIFEST = Manifest(
    "0" * 32, Pipeline(), SourceFacts("", "", 0, "safetensors", "preheat"), {"model.safetensors": SIZE}, {}
).to_json()
#: What the training does: it saves as `preheat.save` does, the last one when it is told to, and ends right after that.
SAVE = f"""
import hashlib, json, os, pathlib, time
home = pathlib.Path("/output/exp-7")
home.mkdir()
digests = {{}}
for epoch in range(1, {SAVED + 1}):
    while epoch == {SAVED} and not os.path.exists("/output/go-on"):
        time.sleep(0.1)
    name = f"net_cp=E{{epoch}}_U{{epoch}}_S{{epoch}}"
    partial = home / f".{{name}}.partial-1"
    partial.mkdir()
    content = os.urandom({SIZE})
    digests[name] = hashlib.sha256(content).hexdigest()
    (partial / "model.safetensors").write_bytes(content)
    (partial / "manifest.json").write_text({MANIFEST!r})
    partial.rename(home / name)
    (home / "net_cp=latest.json").write_text(json.dumps({{"checkpoint": name}}))
print(json.dumps(digests))
"""


@pytest.fixture
def job(tenant: Tenant) -> Iterator[str]:
    source = tenant.get("checkpointpipeline", "finetune")["spec"]["stages"][0]["s3"]
    spec = {
        "stages": [{"s3": source}, {"weightsOnly": {}}],
        "upload": {
            "path": "/output/exp-7",
            "to": {"s3": {**source, "key": f"{tenant.namespace}/exp-7/"}},
            "graceSeconds": 120,
            "bandwidth": "10M",
        },
    }
    container = {
        "name": "train",
        "image": tenant.image,
        "command": [PYTHON, "-uc", SAVE],
        "volumeMounts": [{"name": "output", "mountPath": "/output"}],
    }
    pod = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    pod["volumes"] = [{"name": "output", "emptyDir": {}}]
    template = {"metadata": {"labels": {"preheat.dev/pipeline": "saving"}}, "spec": pod}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "saving"}, "spec": {"template": template}}
    resource = {"apiVersion": "preheat.dev/v1alpha1", "kind": "CheckpointPipeline", "metadata": {"name": "saving"}}
    tenant.apply([{**resource, "spec": spec}, {**job, "spec": {**job["spec"], "backoffLimit": 0}}])  # type: ignore[dict-item]
    yield "saving"
    tenant.kubectl("delete", "job/saving", "--wait=false")


def senders() -> set[int]:
    """The processes on this machine that send, one for each such container."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"preheat.uploading.sidecar" in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def test_everything_is_sent_though_sender_and_runtime_are_killed_on_the_way(tenant: Tenant, job: str) -> None:
    cluster = tenant.platform.cluster
    client = cluster.s3.client()
    prefix = f"{tenant.namespace}/exp-7/"

    killed: set[int] = set()  # may be listed for a moment yet

    def on_its_way() -> bool:
        uploads = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", ())
        return bool(uploads) and bool(senders() - killed)

    def pod() -> dict[str, Any]:
        [found] = tenant.pods(job)
        return found

    def uploads() -> dict[str, Any]:
        return dict(tenant.get("checkpointpipeline", "saving").get("status", {}).get("uploads", {}))

    def uploaded() -> dict[str, Any]:
        conditions = tenant.get("checkpointpipeline", "saving")["status"]["conditions"]
        return next((dict(each) for each in conditions if each["type"] == "Uploaded"), {})

    def sender() -> dict[str, Any]:
        [status] = [each for each in pod()["status"]["initContainerStatuses"] if each["name"] == "preheat-upload"]
        return dict(status)

    node = [pid for program in ("containerd", "kubelet") for pid in cluster.processes.pids(program)]
    for others in ([], node):
        wait_until("a checkpoint is on its way", on_its_way, SECONDS, interval=0.1)
        killed |= (sending := senders() - killed)
        for process in (*others, *sending):  # where nobody is there to start it again, it is started later
            os.kill(process, signal.SIGKILL)
    wait_until("the crash is noticed", lambda: not cluster.healthy(), SECONDS, interval=0.1)
    assert not Cluster.start().started_here
    wait_until(
        "it is there again", lambda: sender()["restartCount"] >= 2 and sender()["started"], SECONDS, interval=0.5
    )
    wait_until(
        "the running upload has told the controller that all is there so far",
        lambda: uploads().get("last", {}).get("name") and uploaded()["status"] == "True",
        SECONDS,
        interval=0.5,
    )
    assert uploads()["senders"][0]["state"] == "current"
    tenant.kubectl("exec", pod()["metadata"]["name"], "-c", "train", "--", "touch", "/output/go-on")
    wait_until("the pod has ended", lambda: pod()["status"]["phase"] == "Succeeded", SECONDS, interval=0.5)
    [name] = [pod()["metadata"]["name"]]
    digests = json.loads(tenant.kubectl("logs", name, "-c", "train").splitlines()[-1])
    stored = {
        each["Key"].removeprefix(prefix) for each in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    }
    files = ("model.safetensors", "manifest.json")
    assert stored == {"net_cp=latest.json", *(f"{each}/{file}" for each in digests for file in files)}
    for each, digest in digests.items():
        content = client.get_object(Bucket=BUCKET, Key=f"{prefix}{each}/model.safetensors")["Body"].read()
        assert hashlib.sha256(content).hexdigest() == digest
    told = json.loads(sender()["state"]["terminated"]["message"])
    assert (told["outcome"], told["waiting"], told["failures"]) == ("uploaded", [], 0)
    wait_until("the status has the end", lambda: uploads()["senders"][0]["state"] == "done", SECONDS, interval=0.5)
    assert (uploaded()["status"], uploads()["waiting"], "unsent" in uploads()) == ("True", 0, False)
    assert uploads()["senders"][0]["restarts"] >= 2
    assert uploads()["last"]["name"] in {"net_cp=latest.json", *digests}
    client.close()
