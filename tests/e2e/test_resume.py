"""A Job that is killed at random moments (process, container, pod) ends with the weights of one that is not.

PREHEAT_SLOW=1 kills it ten times; otherwise four times, each way once or more.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import preheat
from cluster.commands import wait_until
from e2e.tenant import BUCKET, SECONDS, Tenant, pipeline
from preheat.resume.starts import Starts
from preheat_operator.deaths import FORGET

pytestmark = pytest.mark.cluster

SCRIPT = Path(__file__).parent / "training" / "resume_run.py"
CRASH = SCRIPT.with_name("crash_run.py")
KINDS = ["process", "container", "pod"]
KILLS = 10 if os.environ.get("PREHEAT_SLOW") else 4
#: More than pass while somebody takes aim so often, on a busy machine.
EPOCHS = 15 * KILLS
USER = 1000
#: Runs the script again when its process dies, and ends when it is told to leave.
SHELL = """
until [ -e /tmp/leave ]; do "$0" /app/resume_run.py & echo $! > /tmp/process; wait $! && exit 0; done; exit 1
"""


@dataclass
class Run:
    """The training, its output on the node, and what was done to it."""

    tenant: Tenant
    output: Path
    expected: str  # digest of the weights at the end
    killed: list[str] = field(default_factory=list)

    @property
    def checkpoints(self) -> list[Path]:
        """Those that are complete, oldest first."""
        found = [path.parent for path in self.output.glob("exp-7/checkpoints/model_cp=*/manifest.json")]
        return sorted(found, key=lambda each: int(each.name.rpartition("_U")[2].partition("_")[0]))

    @property
    def final(self) -> str:
        path = self.output / "final"
        return path.read_text() if path.exists() else ""

    def start(self, name: str) -> None:
        self.tenant.apply([job(self.tenant, name)])

    def end(self, name: str, pipeline: str = "exp-7") -> dict[str, Any]:
        """Wait for the Job's end, and for what the status says of its last pod."""
        self.tenant.kubectl("wait", f"job/{name}", "--for=condition=Complete", f"--timeout={SECONDS}s")
        pod = max(self.tenant.pods(f"{name}-"), key=lambda each: each["metadata"]["creationTimestamp"])["metadata"][
            "name"
        ]
        told = lambda: self.status(pipeline).get("resume", {}).get("pod") == pod  # noqa: E731
        wait_until("the status tells of it", told, SECONDS)
        return self.status(pipeline)

    def status(self, pipeline: str = "exp-7") -> dict[str, Any]:
        found: dict[str, Any] = self.tenant.get("ckpt", pipeline).get("status", {})
        return found

    def pod(self, name: str) -> str:
        """The Job's pod whose training runs, if there is one."""
        for pod in self.tenant.pods(f"{name}-"):
            states = [each["state"] for each in pod["status"].get("containerStatuses", ())]
            if "deletionTimestamp" not in pod["metadata"] and any("running" in state for state in states):
                return str(pod["metadata"]["name"])
        return ""

    def kill(self, name: str, kind: str, saves: int, moment: float) -> None:
        """End it when it has saved so many checkpoints since the last time, and a moment later."""
        known = len(self.checkpoints)
        wait_until("the training runs", lambda: bool(self.pod(name)), SECONDS, interval=0.2)
        wait_until("it goes on", lambda: len(self.checkpoints) >= known + saves, SECONDS, interval=0.05)
        pod = self.pod(name)
        time.sleep(moment)  # the moment is what is tested
        if kind == "pod":
            self.tenant.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
        else:
            leave = "touch /tmp/leave; " if kind == "container" else ""
            script = f"{leave}echo told; until kill -9 $(cat /tmp/process); do :; done"  # one that starts just now, too
            told = lambda: "told" in self.tenant.kubectl("exec", pod, "--", "sh", "-c", script, check=False)  # noqa: E731
            wait_until(f"the {kind} is told", told, SECONDS)
        self.killed.append(f"{kind} after {moment:.2f} s, with {len(self.checkpoints)} checkpoints")


def bucket(tenant: Tenant, key: str) -> dict[str, str]:
    """A place in the tenant's bucket."""
    return {"bucket": BUCKET, "key": key, "endpoint": tenant.platform.s3_endpoint, "region": "us-east-1",
            "addressing": "path", "secretRef": "s3-credentials"}  # fmt: skip


def job(tenant: Tenant, name: str) -> dict[str, Any]:
    environment = tenant.platform.cluster.training_environment()
    container = {
        "name": "train",
        "image": tenant.image,
        "command": ["sh", "-c", SHELL, environment.python],
        "env": [
            {"name": key, "value": value}
            for key, value in {"OUTPUT": "/output", "PACE": "0.25", "EPOCHS": str(EPOCHS)}.items()
        ],
        "volumeMounts": [
            {"name": "app", "mountPath": "/app"},
            {"name": "output", "mountPath": "/output"},
            {"name": "torch", "mountPath": environment.path, "readOnly": True},
        ],
    }
    volumes = [
        {"name": "app", "configMap": {"name": "resume"}},
        {"name": "output", "persistentVolumeClaim": {"claimName": "output"}},
        {"name": "torch", "persistentVolumeClaim": {"claimName": environment.claim, "readOnly": True}},
    ]
    pod = {
        "restartPolicy": "OnFailure",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": USER, "runAsGroup": USER},
        "containers": [container],
        "volumes": volumes,
    }
    template = {"metadata": {"labels": {"preheat.dev/pipeline": "exp-7"}}, "spec": pod}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 20, "template": template},
    }


def claim(namespace: str, folder: Path) -> list[dict[str, Any]]:
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": str(folder)},
        "claimRef": {"namespace": namespace, "name": "output"},
    }
    labels = {"preheat.test/namespace": namespace}
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"output-{namespace}", "labels": labels},
         "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "output"}, "spec": asked},
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tenant: Tenant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    cluster = tenant.platform.cluster
    pretrained, output = tmp_path_factory.mktemp("pretrained"), cluster.scratch / f"output-{tenant.namespace}"
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    save_file(model.state_dict(), pretrained / "pretrained.safetensors")
    tenant.platform.upload(BUCKET, "pretrained.safetensors", pretrained / "pretrained.safetensors")
    output.mkdir()
    output.chmod(0o777)
    source = bucket(tenant, "pretrained.safetensors")
    place = {"run": {"root": {"local": {"path": "/output"}}, "runId": "exp-7"}}
    spec = {"resume": {"from": place}, "stages": [{"s3": source}, {"weightsOnly": {}}]}
    scripts = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "resume"},
               "data": {script.name: script.read_text() for script in (SCRIPT, CRASH)}}  # fmt: skip
    environment = yaml.safe_load_all(cluster.training_environment().volume_manifests(tenant.namespace))
    tenant.apply([*claim(tenant.namespace, output), *environment, scripts, pipeline("exp-7", spec)])
    try:
        yield Run(tenant, output, uninterrupted(pretrained, spec["stages"][1:]))
    finally:
        tenant.platform.kubectl("delete", "persistentvolume", "-l", f"preheat.test/namespace={tenant.namespace}",
                                "--wait=false")  # fmt: skip
        shutil.rmtree(output, ignore_errors=True)


def uninterrupted(folder: Path, stages: list[dict[str, Any]]) -> str:
    """The digest of the same training, here and in one go."""
    spec = {"stages": [{"local": {"path": str(folder / "pretrained.safetensors")}}, *stages]}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(spec))
    words = ["-m", "preheat", "exec", "--pipeline", folder / "pipeline.yaml", "--volume", folder / "volume", "--"]
    environment = {**os.environ, "OUTPUT": str(folder), "EPOCHS": str(EPOCHS)}
    subprocess.run([sys.executable, *words, sys.executable, SCRIPT], check=True, env=environment, capture_output=True)
    return (folder / "final").read_text()


def test_a_job_that_is_killed_at_random_moments_ends_with_the_same_weights(run: Run) -> None:
    chance = random.Random(20)
    kinds = (KINDS * KILLS)[:KILLS]
    chance.shuffle(kinds)
    run.start("killed")
    for kind in kinds:
        run.kill("killed", kind, chance.randint(0, 3), chance.uniform(0.0, 0.3))
    status = run.end("killed")
    print("\n".join(run.killed))
    assert run.final == run.expected
    assert status["resume"]["passed"] == []
    assert status["resume"]["run"] == "/output/exp-7"


def test_a_damaged_checkpoint_and_a_poisoned_one_are_skipped_and_the_status_says_why(run: Run) -> None:
    *_, good, poisoned, damaged = run.checkpoints
    weights = damaged / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size - 1)
        last = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([last[0] ^ 1]))
    for number in range(3):
        Starts(run.output / "exp-7").begin(poisoned.name, str(number), 0)
    (run.output / "final").unlink()
    run.start("mended")
    status = run.end("mended")
    told = status["resume"]
    assert told["checkpoint"] == good.name
    assert [each["checkpoint"] for each in told["passed"]] == [damaged.name, poisoned.name]
    assert "Corrupt" in told["passed"][0]["why"]
    assert told["passed"][1]["why"].startswith("poisoned: 3 processes died on it")
    ready = next(each for each in status["conditions"] if each["type"] == "Ready")
    assert f"passed over {damaged.name}" in ready["message"]
    log = run.tenant.kubectl("logs", "job/mended", "-c", "preheat-loader")
    assert f"resumes from {good.name} in /output/exp-7" in log
    print(log, run.tenant.kubectl("logs", "job/mended"), ready["message"], yaml.safe_dump(told), sep="\n")
    assert run.final == run.expected


def test_a_checkpoint_in_a_bucket_that_kills_its_process_is_passed_over_by_the_next_pod(
    run: Run, tmp_path: Path
) -> None:
    """There is no place for marks: the pod's own status tells the controller, and that the next pod's loader."""
    torch.manual_seed(3)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.AdamW(model.named_parameters())
    for epoch in (1, 2):
        optimizer.zero_grad()
        model(torch.ones(2, 8)).square().sum().backward()
        optimizer.step()
        preheat.save(tmp_path, model, optimizer, epoch=epoch, update=epoch, run_id="exp-8")
    for file in (path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()):
        run.tenant.platform.upload(BUCKET, f"runs/{file.relative_to(tmp_path)}", file)
    place = {"run": {"root": {"s3": bucket(run.tenant, "runs/")}, "runId": "exp-8"}}
    stages = [{"s3": bucket(run.tenant, "pretrained.safetensors")}, {"weightsOnly": {}}]
    run.tenant.apply([pipeline("exp-8", {"resume": {"from": place, "maxFailures": 1}, "stages": stages})])
    crashing = job(run.tenant, "crashing")
    template = crashing["spec"]["template"]
    template["metadata"]["labels"] = {"preheat.dev/pipeline": "exp-8"}
    [container] = template["spec"]["containers"]
    container.update(command=[container["command"][-1], "/app/crash_run.py"], env=[{"name": "DEADLY", "value": "2"}])
    template["spec"]["restartPolicy"] = "Never"
    run.tenant.apply([crashing])
    status = run.end("crashing", "exp-8")
    first = min(run.tenant.pods("crashing-"), key=lambda each: each["metadata"]["creationTimestamp"])
    [death] = status["deaths"]
    assert (death["checkpoint"], death["pod"]) == ("model_cp=E2_U2", first["metadata"]["name"])
    assert death["reason"] == "exit code 9"
    assert status["resume"]["checkpoint"] == "model_cp=E1_U1"
    [passed] = status["resume"]["passed"]
    assert passed["why"].startswith("poisoned: a process died on it")
    ready = next(each for each in status["conditions"] if each["type"] == "Ready")
    assert "`kubectl preheat forget exp-8` lifts that" in ready["message"]
    print(run.tenant.kubectl("logs", "job/crashing", "--all-pods", "--all-containers"), ready["message"], sep="\n")
    now = datetime.now(UTC).isoformat()
    run.tenant.kubectl("annotate", "ckpt", "exp-8", f"{FORGET}={now}")
    wait_until("it is forgotten", lambda: "deaths" not in run.status("exp-8"), SECONDS, interval=0.2)
