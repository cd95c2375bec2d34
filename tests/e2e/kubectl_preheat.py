"""`kubectl preheat` as a user of the cluster runs it: kubectl finds the plugin on PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from cluster.binaries import KUBERNETES, binary
from demo import story
from demo.platforms import Local

LABEL = "preheat.dev/pipeline"


def preheat(platform: Local, *words: str | Path) -> tuple[int, Any]:
    """Exit code and JSON of one call."""
    path = [binary(KUBERNETES, "kubectl").parent, Path(sys.executable).parent, os.environ["PATH"]]
    environment = {"PATH": os.pathsep.join(map(str, path)), "KUBECONFIG": str(platform.cluster.kubeconfig)}
    command = ["kubectl", "preheat", *words, "-n", story.NAMESPACE, "-o", "json"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def explained(platform: Local, *words: str | Path) -> dict[str, dict[str, Any]]:
    """Explanations by their subject."""
    _, found = preheat(platform, "explain", *words)
    return {each["subject"]: each for each in found["explanations"]}


def forget_the_label(platform: Local) -> None:
    """A Deployment that has the label on itself, not on its pods."""
    job = yaml.safe_load((story.FINETUNE / "job.yaml").read_text())
    template = {"metadata": {"labels": {"app": "forgotten"}}, "spec": job["spec"]["template"]["spec"]}
    del template["spec"]["restartPolicy"]
    metadata = {**story.named("forgotten"), "labels": {LABEL: "finetune"}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "forgotten"}}, "template": template}
    story.apply(platform, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})


def make_a_missed_pod(platform: Local) -> None:
    """A pod that nobody was asked about when it was created; no node needs to run it."""
    job = yaml.safe_load((story.FINETUNE / "job.yaml").read_text())
    spec = {**job["spec"]["template"]["spec"], "schedulerName": "nobody"}
    story.apply(platform, {"apiVersion": "v1", "kind": "Pod", "metadata": story.named("missed"), "spec": spec})
    platform.kubectl("-n", story.NAMESPACE, "label", "pod", "missed", f"{LABEL}=finetune")


def as_a_viewer(platform: Local, folder: Path) -> Path:
    """A kubeconfig of somebody who may view the namespace, and nothing else."""
    binding = ["create", "rolebinding", "viewer", "--clusterrole=view", "--user=viewer"]
    platform.kubectl("-n", story.NAMESPACE, *binding)
    config = yaml.safe_load(platform.kubectl("config", "view", "--raw", "--flatten"))
    config["users"][0]["user"]["as"] = "viewer"
    path = folder / "viewer.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
