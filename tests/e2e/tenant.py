"""A namespace with a checkpoint of a few bytes, a pipeline for it, and pods that say what they were given."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
import yaml
from safetensors.numpy import save_file

from cluster.commands import wait_until
from demo.platforms import Local

BUCKET, KEY = "models", "tiny.safetensors"
SECONDS = 120
PYTHON = "/usr/bin/python3"

#: What a container runs: it reads every file of its bundle, tries to write to it, and says who it is.
LOOK = """
import json, os, pathlib
bundle = pathlib.Path(os.environ["PREHEAT_BUNDLE"])
sizes = {file.name: len(file.read_bytes()) for file in bundle.iterdir()}
try:
    bundle.joinpath("mine").touch()
except OSError as error:
    sizes["written"] = error.strerror
print(json.dumps({"user": os.getuid(), "groups": sorted({os.getgid(), *os.getgroups()}), "files": sizes,
    "manifest": json.loads(bundle.joinpath("manifest.json").read_text()), "environment": dict(os.environ)}))
"""


class Tenant:
    """One namespace, and what its user does in it."""

    def __init__(self, platform: Local) -> None:
        self.platform = platform
        self.namespace = f"tenant-{secrets.token_hex(4)}"

    def set_up(self, folder: Path) -> None:
        """Make the namespace, upload the checkpoint, apply the pipeline."""
        self.platform.cluster.create_namespace(self.namespace)
        save_file({"weight": numpy.ones((4, 4), "float32")}, folder / KEY)
        self.platform.upload(BUCKET, KEY, folder / KEY)
        keys = {"AWS_ACCESS_KEY_ID": self.platform.s3_access_key, "AWS_SECRET_ACCESS_KEY": self.platform.s3_secret_key}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}, "stringData": keys}
        source = {"bucket": BUCKET, "key": KEY, "endpoint": self.platform.s3_endpoint, "region": "us-east-1",
                  "addressing": "path", "secretRef": "s3-credentials"}  # fmt: skip
        self.apply([secret, pipeline("finetune", {"stages": [{"s3": source}, {"weightsOnly": {}}]})])

    def kubectl(self, *words: str, documents: Iterable[Any] = (), check: bool = True) -> str:
        """Run kubectl in the namespace, with documents on its input."""
        text = yaml.safe_dump_all(documents)
        return self.platform.kubectl("--namespace", self.namespace, *words, input=text, check=check)

    def apply(self, documents: Iterable[Any]) -> None:
        """Create the documents."""
        self.kubectl("create", "-f", "-", documents=documents)

    def get(self, *words: str) -> Any:
        """What the API server says, parsed."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def pods(self, prefix: str) -> list[dict[str, Any]]:
        """The pods whose names begin so."""
        return [each for each in self.get("pods")["items"] if each["metadata"]["name"].startswith(prefix)]

    def told(self, pod: str, container: str) -> dict[str, Any]:
        """What LOOK printed in a container, as soon as it has."""
        last = ""

        def printed() -> bool:
            nonlocal last
            last = self.kubectl("logs", pod, "-c", container, check=False)
            return last.startswith("{")

        wait_until(f"{pod}/{container} has looked", printed, SECONDS, interval=0.5)
        found: dict[str, Any] = json.loads(last.splitlines()[0])
        return found

    @cached_property
    def image(self) -> str:
        """What the pods run: a Python without torch."""
        return self.platform.cluster.base_image()

    def container(self, name: str, *, stays: bool = False, **more: Any) -> dict[str, Any]:
        """A container that looks at its bundle, and then ends or stays."""
        script = f"{LOOK}\nimport time\ntime.sleep(3600)" if stays else LOOK
        return {"name": name, "image": self.image, "command": [PYTHON, "-uc", script], **more}


def pipeline(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A CheckpointPipeline."""
    return {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "CheckpointPipeline",
        "metadata": {"name": name},
        "spec": spec,
    }


def pod(name: str, spec: dict[str, Any], *, label: str | None = "finetune") -> dict[str, Any]:
    """A pod, labelled unless `label` is None."""
    labels = {} if label is None else {"preheat.dev/pipeline": label}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
