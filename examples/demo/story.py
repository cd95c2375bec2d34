"""The demo as a story in chapters. Each does one real thing and returns the facts it saw, which tests assert on."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from demo import transcript
from demo.platforms import Platform

NAMESPACE = "preheat-demo"
FINETUNE = Path(__file__).parents[1] / "finetune"
BUCKET, KEY = "models", "checkpoints/language-model.ckpt"
TIMEOUT_SECONDS = 300
FROZEN = ("encoder.embedding.", "encoder.blocks.layers.0.")

#: What the namespace asks of every pod in it: the strictest Pod Security level, and requests and limits on everything.
NAMESPACE_MANIFEST = f"""
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels: {{pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: ResourceQuota
metadata: {{name: compute, namespace: {NAMESPACE}}}
spec:
  hard: {{requests.cpu: "4", requests.memory: 8Gi, limits.cpu: "16", limits.memory: 16Gi}}
"""


@dataclass
class Training:
    """What one fine-tuning Job left behind."""

    pod: dict[str, Any]
    loader_log: str
    training_log: str
    before: dict[str, str] = field(default_factory=dict)  # parameter -> SHA-256 before the first step
    after: dict[str, str] = field(default_factory=dict)


class StoryError(Exception):
    """A chapter did not end as it should; the message says what was seen instead."""


def make_checkpoint(platform: Platform, folder: Path) -> dict[str, str]:
    """Pretrain for one step, save with Lightning, upload; returns the checkpoint's digests by parameter."""
    transcript.chapter("A real checkpoint in a real bucket")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "language-model.ckpt"
    if not path.exists():
        output = subprocess.run(
            [sys.executable, FINETUNE / "pretrain.py", path], check=True, stdout=subprocess.PIPE, text=True, cwd=folder
        ).stdout
        transcript.command("python pretrain.py language-model.ckpt", output)
    platform.upload(BUCKET, KEY, path)
    transcript.say(f"{path.stat().st_size / 1e9:.2f} GB at s3://{BUCKET}/{KEY}")
    return checkpoint_digests(path)


def checkpoint_digests(path: Path) -> dict[str, str]:
    """SHA-256 of every weight, read by torch itself."""
    import torch

    weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {name: hashlib.sha256(tensor.numpy()).hexdigest() for name, tensor in weights.items()}


def set_up_namespace(platform: Platform) -> None:
    """A namespace that enforces `restricted` and a quota, with a claim, a Secret and the training script."""
    transcript.chapter("A namespace with Pod Security `restricted` and a quota on CPU and memory")
    platform.kubectl("apply", "-f", "-", input=NAMESPACE_MANIFEST)
    # What an earlier story left would be told again by this one's status.
    platform.kubectl("-n", NAMESPACE, "delete", "jobs,checkpointpipelines", "--all", "--wait=true")
    platform.kubectl("apply", "-f", "-", input=platform.claim(NAMESPACE))
    secret = {"AWS_ACCESS_KEY_ID": platform.s3_access_key, "AWS_SECRET_ACCESS_KEY": platform.s3_secret_key}
    apply(platform, {"apiVersion": "v1", "kind": "Secret", "metadata": named("s3-credentials"), "stringData": secret})
    script = {name: (FINETUNE / name).read_text() for name in ("train.py", "model.py")}
    apply(platform, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named("training-script"), "data": script})
    transcript.command(
        "kubectl -n preheat-demo get quota,pvc,secret,configmap",
        platform.kubectl("-n", NAMESPACE, "get", "quota,pvc,secret,configmap"),
    )


def declare_pipeline(platform: Platform, **changes: Any) -> str:
    """Apply `pipeline.yaml` with this platform's S3 endpoint, and with another name, S3 key or fields of the spec."""
    pipeline = yaml.safe_load((FINETUNE / "pipeline.yaml").read_text())
    source = pipeline["spec"]["stages"][0]["s3"]
    source["endpoint"] = platform.s3_endpoint
    source["key"] = changes.get("key", source["key"])
    pipeline["metadata"]["name"] = changes.get("name", pipeline["metadata"]["name"])
    pipeline["spec"] |= changes.get("spec", {})
    return apply(platform, pipeline)


def declare_job(platform: Platform, *, name: str = "finetune", pipeline: str = "finetune") -> str:
    """Apply `job.yaml` under a name; the label is its one Preheat thing."""
    job = yaml.safe_load((FINETUNE / "job.yaml").read_text())
    job["metadata"]["name"] = name
    job["spec"]["template"]["metadata"]["labels"]["preheat.dev/pipeline"] = pipeline
    platform.kubectl("-n", NAMESPACE, "delete", "job", name, "--ignore-not-found", "--wait=true")
    return apply(platform, platform.with_torch(job))


def finetune(platform: Platform) -> Training:
    """Apply pipeline and Job, wait, and show what the loader and the training process said."""
    transcript.chapter("One CheckpointPipeline, one Job with one label")
    transcript.command("cat pipeline.yaml", (FINETUNE / "pipeline.yaml").read_text())
    transcript.command("kubectl apply -f pipeline.yaml", declare_pipeline(platform))
    transcript.command("grep -B1 preheat.dev job.yaml", the_label())
    transcript.command("kubectl apply -f job.yaml", declare_job(platform))
    result = wait_for_job(platform, "finetune")
    transcript.chapter("The loader: an init container that Preheat added, with a small memory limit")
    loader = next(c for c in result.pod["spec"]["initContainers"] if c["name"] == "preheat-loader")
    transcript.say(f"its limits: {loader['resources'].get('limits')}")
    transcript.command("kubectl logs job/finetune -c preheat-loader", result.loader_log)
    transcript.chapter("The training process: weights are in before the first step")
    transcript.command("kubectl logs job/finetune", readable(result.training_log))
    return result


def compare(training: Training, checkpoint: dict[str, str]) -> None:
    """Loaded tensors equal the checkpoint's, frozen ones did not change, the others did; else StoryError."""
    transcript.chapter("Compared by digest, parameter by parameter")
    shared = [name for name in training.before if name in checkpoint and not name.startswith("head.")]
    frozen = [name for name in training.before if name.startswith(FROZEN)]
    free = [name for name in training.before if name not in frozen]
    check(
        bool(shared) and all(training.before[n] == checkpoint[n] for n in shared),
        f"{len(shared)} loaded tensors equal the checkpoint's",
    )
    check(
        bool(frozen) and all(training.after[n] == training.before[n] for n in frozen),
        f"{len(frozen)} frozen tensors did not change",
    )
    check(bool(free) and all(training.after[n] != training.before[n] for n in free), f"{len(free)} others did")


def show_status(platform: Platform) -> dict[str, Any]:
    """What the resource says about all this."""
    transcript.chapter("What the cluster says about it")
    wait_until(
        lambda: pipeline_status(platform, "finetune").get("pods", {}).get("loaded", 0) >= 1,
        "a loaded pod in the status",
    )
    wide = platform.kubectl("-n", NAMESPACE, "get", "ckpt", "-o", "wide")
    transcript.command("kubectl get ckpt -n preheat-demo -o wide", wide)
    described = platform.kubectl("-n", NAMESPACE, "describe", "ckpt", "finetune")
    transcript.command("kubectl describe ckpt finetune -n preheat-demo", described[described.find("Status:") :])
    return pipeline_status(platform, "finetune")


def second_pod(platform: Platform) -> Training:
    """Another Job on the same claim finds the bundle of the first."""
    transcript.chapter("A second pod on the same claim finds its bundle")
    declare_job(platform, name="finetune-again")
    result = wait_for_job(platform, "finetune-again")
    transcript.command("kubectl logs job/finetune-again -c preheat-loader", result.loader_log)
    return result


def unknown_pipeline(platform: Platform) -> str:
    """A label that names no pipeline: the pod is refused, and the Job says so."""
    transcript.chapter("Wrong: a label that names no pipeline")
    declare_job(platform, name="no-such-pipeline", pipeline="finetuen")
    events = [
        "-n",
        NAMESPACE,
        "get",
        "events",
        "--field-selector=involvedObject.name=no-such-pipeline",
        "-o=jsonpath={.items[*].message}",
    ]
    wait_until(lambda: "finetuen" in platform.kubectl(*events), "the refusal among the Job's events")
    message = platform.kubectl(*events)
    transcript.command("kubectl get events --field-selector=involvedObject.name=no-such-pipeline", message)
    platform.kubectl("-n", NAMESPACE, "delete", "job", "no-such-pipeline")
    return message


def wrong_key(platform: Platform) -> dict[str, Any]:
    """A key that does not exist: the init container fails with the reason, in the pod and in the resource."""
    transcript.chapter("Wrong: a key that is not in the bucket")
    return failing(platform, "wrong-key", key="checkpoints/nothing-here.ckpt")


def truncated(platform: Platform, folder: Path) -> dict[str, Any]:
    """A checkpoint cut in the middle: refused, and the missing bytes are named."""
    transcript.chapter("Wrong: a truncated checkpoint")
    whole, cut = folder / "language-model.ckpt", folder / "truncated.ckpt"
    with whole.open("rb") as source, cut.open("wb") as target:
        target.write(source.read(whole.stat().st_size * 2 // 3))
    platform.upload(BUCKET, "checkpoints/truncated.ckpt", cut)
    cut.unlink()
    return failing(platform, "truncated", key="checkpoints/truncated.ckpt")


def failing(platform: Platform, name: str, *, key: str) -> dict[str, Any]:
    """Run a Job whose checkpoint cannot be had; returns the failure in the resource's status."""
    declare_pipeline(platform, name=name, key=key)
    declare_job(platform, name=name, pipeline=name)
    wait_until(lambda: bool(pipeline_status(platform, name).get("failures")), "a failure in the status")
    transcript.command("kubectl get pods", platform.kubectl("-n", NAMESPACE, "get", "pods", "-l", f"job-name={name}"))
    transcript.command(f"kubectl get ckpt {name}", platform.kubectl("-n", NAMESPACE, "get", "ckpt", name, "-o", "wide"))
    failure: dict[str, Any] = pipeline_status(platform, name)["failures"][0]
    transcript.say(f"{failure['reason']}: {failure['message']}")
    platform.kubectl("-n", NAMESPACE, "delete", "job", name)
    return failure


def wait_for_job(platform: Platform, name: str) -> Training:
    """Wait until the Job ends; raises StoryError with what the cluster says if it failed, or does not end."""
    try:
        wait_until(lambda: bool(job_condition(platform, name)), f"the end of job {name}")
        if job_condition(platform, name) != "Complete":
            raise StoryError(f"job {name} failed")
    except StoryError as error:
        described = platform.kubectl("-n", NAMESPACE, "describe", "job,pods", "-l", f"job-name={name}")
        raise StoryError(f"{error}\n{described}") from None
    pods = json.loads(platform.kubectl("-n", NAMESPACE, "get", "pods", "-l", f"job-name={name}", "-o", "json"))["items"]
    logs = [platform.kubectl("-n", NAMESPACE, "logs", f"job/{name}", "-c", c) for c in ("preheat-loader", "train")]
    training = Training(pods[0], *logs)
    for line in training.training_log.splitlines():
        if line.startswith('{"digests"'):
            said = json.loads(line)
            target = training.before if said["digests"].startswith("before") else training.after
            target.update(said["parameters"])
    return training


def job_condition(platform: Platform, name: str) -> str:
    """`Complete`, `Failed`, or nothing yet."""
    conditions = '{.status.conditions[?(@.status=="True")].type}'
    found = platform.kubectl("-n", NAMESPACE, "get", "job", name, "-o", f"jsonpath={conditions}")
    return next((word for word in ("Complete", "Failed") if word in found.split()), "")


def pipeline_status(platform: Platform, name: str) -> dict[str, Any]:
    """The status of a resource, empty while there is none."""
    found = json.loads(platform.kubectl("-n", NAMESPACE, "get", "ckpt", name, "-o", "json"))
    status: dict[str, Any] = found.get("status", {})
    return status


def ready(platform: Platform, name: str) -> tuple[str, str]:
    """Status and reason of the resource's condition Ready; empty while there is none."""
    conditions = pipeline_status(platform, name).get("conditions", ())
    return next(((str(c["status"]), str(c["reason"])) for c in conditions if c["type"] == "Ready"), ("", ""))


def wait_until(condition: Any, what: str) -> None:
    """Poll until `condition()` holds; raises StoryError after TIMEOUT_SECONDS."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise StoryError(f"waited {TIMEOUT_SECONDS} s in vain for {what}")
        time.sleep(0.5)


def check(condition: bool, fact: str) -> None:
    """Show a fact that was compared; raises StoryError when it does not hold."""
    if not condition:
        transcript.fails(fact)
        raise StoryError(f"not so: {fact}")
    transcript.holds(fact)


def named(name: str) -> dict[str, str]:
    """Metadata of an object in the demo's namespace."""
    return {"name": name, "namespace": NAMESPACE}


def apply(platform: Platform, manifest: dict[str, Any]) -> str:
    """`kubectl apply` of one object; returns what kubectl said."""
    return platform.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))


def the_label() -> str:
    """The one Preheat thing in `job.yaml`, with the line above it."""
    lines = (FINETUNE / "job.yaml").read_text().splitlines()
    [position] = [number for number, line in enumerate(lines) if "preheat.dev" in line]
    return "\n".join(lines[position - 1 : position + 1])


def readable(log: str) -> str:
    """The log without Lightning's notes on hardware and its tips, long JSON lines cut."""
    noise = ("GPU available", "TPU available", "💡", "/opt/training/", "Adding ")
    lines = [line for line in log.splitlines() if not line.startswith(noise)]
    return "\n".join(line if len(line) <= 1200 else f"{line[:150]} ... ({len(line)} characters)" for line in lines)
