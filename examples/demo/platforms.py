"""Where the demo runs: a Kubernetes of our own on this machine, kind, or the cluster of the current kubeconfig."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]


class Platform(Protocol):
    """What the story needs of a cluster."""

    s3_endpoint: str  # as pods reach it
    s3_access_key: str
    s3_secret_key: str

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002
        """Run kubectl, return its output."""
        ...

    def helm(self, *arguments: str) -> str:
        """Run helm, return its output."""
        ...

    def images(self) -> tuple[str, str]:
        """References of the operator's and the loader's image, built from this checkout, that the nodes can start."""
        ...

    def upload(self, bucket: str, key: str, path: Path) -> None:
        """Put a file into the S3 server, making the bucket if it is missing."""
        ...

    def claim(self, namespace: str) -> str:
        """Manifests of a PersistentVolumeClaim `checkpoints` that pods of the namespace can write to."""
        ...

    def with_torch(self, job: dict[str, Any]) -> dict[str, Any]:
        """The Job with an image, or image and volume, that has torch and Lightning."""
        ...

    def how_to_play(self) -> str:
        """What a person types to look around afterwards."""
        ...


class ContainerPlatform:
    """A cluster that runs ordinary images: torch comes in an image, S3 runs as a Deployment."""

    s3_endpoint = "http://s3.preheat-demo.svc:7070"
    s3_access_key = "preheat"
    s3_secret_key = "preheat-demo"
    context: str
    training_image: str

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002
        return run("kubectl", "--context", self.context, *arguments, input=input, check=check)

    def helm(self, *arguments: str) -> str:
        return run("helm", "--kube-context", self.context, *arguments)

    def upload(self, bucket: str, key: str, path: Path) -> None:
        """Start the server if it is not there, and put the object through a forwarded port."""
        self.kubectl("apply", "-f", str(Path(__file__).parent / "s3.yaml"))
        self.kubectl("-n", "preheat-demo", "rollout", "status", "deployment/s3", "--timeout=180s")
        forward = ["kubectl", "--context", self.context, "-n", "preheat-demo", "port-forward", "service/s3", ":7070"]
        with subprocess.Popen(forward, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                port = process.stdout.readline().rpartition(" -> ")[0].rpartition(":")[2]
                put(f"http://127.0.0.1:{port}", self.s3_access_key, self.s3_secret_key, bucket, key, path)
            finally:
                process.terminate()

    def claim(self, namespace: str) -> str:
        return CLAIM.format(namespace=namespace)

    def with_torch(self, job: dict[str, Any]) -> dict[str, Any]:
        job["spec"]["template"]["spec"]["containers"][0]["image"] = self.training_image
        return job


class Kind(ContainerPlatform):
    """A kind cluster named preheat-demo; needs Docker, kind, kubectl and helm."""

    context = "kind-preheat-demo"
    training_image = "preheat-demo-training:1"

    def __init__(self) -> None:
        require("docker", "kind", "kubectl", "helm")
        if "preheat-demo" not in run("kind", "get", "clusters").split():
            run("kind", "create", "cluster", "--name", "preheat-demo", "--wait", "120s")

    def images(self) -> tuple[str, str]:
        files = {
            "preheat-operator:demo": "operator/Dockerfile",
            "preheat-loader:demo": "loader_image/Dockerfile",
            self.training_image: "examples/finetune/Dockerfile",
        }
        for tag, file in files.items():
            run("docker", "build", "--quiet", "--tag", tag, "--file", str(ROOT / file), str(ROOT))
            run("kind", "load", "docker-image", tag, "--name", "preheat-demo")
        return "preheat-operator:demo", "preheat-loader:demo"

    def how_to_play(self) -> str:
        return "kubectl config use-context kind-preheat-demo"


class Current(ContainerPlatform):
    """The cluster of the current kubeconfig; its nodes must be able to pull the images that the environment names."""

    def __init__(self) -> None:
        require("kubectl", "helm")
        self.context = run("kubectl", "config", "current-context").strip()
        self.training_image = self._named("PREHEAT_TRAINING_IMAGE", "examples/finetune/Dockerfile")
        answer = input(f"Install Preheat and a demo into the cluster of context {self.context!r}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            raise SystemExit("nothing was installed")

    def images(self) -> tuple[str, str]:
        return (
            self._named("PREHEAT_OPERATOR_IMAGE", "operator/Dockerfile"),
            self._named("PREHEAT_LOADER_IMAGE", "loader_image/Dockerfile"),
        )

    def how_to_play(self) -> str:
        return f"kubectl config use-context {self.context}"

    @staticmethod
    def _named(variable: str, dockerfile: str) -> str:
        if reference := os.environ.get(variable):
            return reference
        raise SystemExit(f"set {variable} to an image that the nodes can pull, built from {dockerfile}")


class Local:
    """The project's own Kubernetes on this machine (see tests/cluster)."""

    def __init__(self) -> None:
        from cluster.lifecycle import Cluster

        self.cluster = Cluster.start()
        self.s3_endpoint = self.cluster.s3.endpoint
        self.s3_access_key = self.cluster.s3.access_key
        self.s3_secret_key = self.cluster.s3.secret_key

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002
        return self.cluster.kubectl(*arguments, input=input, check=check)

    def helm(self, *arguments: str) -> str:
        return self.cluster.helm(*arguments)

    def images(self) -> tuple[str, str]:
        return self.cluster.build_image("operator"), self.cluster.build_image("loader")

    def upload(self, bucket: str, key: str, path: Path) -> None:
        self.cluster.s3.make_bucket(bucket)
        self.cluster.s3.put(bucket, key, path)

    def claim(self, namespace: str) -> str:
        """There is no provisioner: the volume is a folder of the node."""
        folder = self.cluster.scratch / f"claim-{namespace}"
        shutil.rmtree(folder, ignore_errors=True)  # each story begins with an empty claim
        folder.mkdir()
        folder.chmod(0o777)
        training = self.cluster.training_environment().volume_manifests(namespace)
        for volume in json.loads(self.kubectl("get", "persistentvolumes", "-o", "json"))["items"]:
            # Its claim went with an earlier namespace; it would never bind again.
            if volume["status"]["phase"] == "Released" and volume["spec"]["claimRef"]["namespace"] == namespace:
                self.kubectl("delete", "persistentvolume", volume["metadata"]["name"])
        return "---\n".join(
            [HOST_VOLUME.format(namespace=namespace, folder=folder), CLAIM.format(namespace=namespace), training]
        )

    def with_torch(self, job: dict[str, Any]) -> dict[str, Any]:
        """No image with torch can be pulled: a virtual environment on a read-only claim stands in for one."""
        environment = self.cluster.training_environment()
        pod = job["spec"]["template"]["spec"]
        [container] = pod["containers"]
        container["image"] = self.cluster.base_image()
        container["command"][0] = environment.python
        container["volumeMounts"].append({"name": "torch", "mountPath": environment.path, "readOnly": True})
        claim = {"claimName": environment.claim, "readOnly": True}
        pod["volumes"].append({"name": "torch", "persistentVolumeClaim": claim})
        return job

    def how_to_play(self) -> str:
        return f"export KUBECONFIG={self.cluster.kubeconfig}"


PLATFORMS: dict[str, type[Platform]] = {"local": Local, "kind": Kind, "current": Current}

CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: checkpoints, namespace: {namespace}}}
spec:
  accessModes: [ReadWriteOnce]
  resources: {{requests: {{storage: 4Gi}}}}
"""

HOST_VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {{name: "checkpoints-{namespace}", labels: {{preheat.dev/demo: "{namespace}"}}}}
spec:
  capacity: {{storage: 4Gi}}
  accessModes: [ReadWriteOnce]
  hostPath: {{path: {folder}}}
  claimRef: {{namespace: {namespace}, name: checkpoints}}
"""


def put(endpoint: str, access_key: str, secret_key: str, bucket: str, key: str, path: Path) -> None:
    """Upload a file, making the bucket if it is missing."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
    )
    if bucket not in [found["Name"] for found in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=bucket)
    client.upload_file(str(path), bucket, key)
    client.close()


def require(*programs: str) -> None:
    """Stop with one sentence when a program is missing."""
    if missing := [program for program in programs if not shutil.which(program)]:
        raise SystemExit(f"this needs {', '.join(missing)} on PATH; `make demo` without CLUSTER= needs neither")


def run(*command: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002
    """Run a program and return what it printed; a failure raises with its own words."""
    result = subprocess.run(command, input=input, capture_output=True, text=True)
    if check and result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout
