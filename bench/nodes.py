"""The part of the nodes and of the Job controller, as far as the operator sees it: pods that are bound and report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from api_server import ApiServer
from sending import Request
from workload import API, LABEL, merge, now, pod, pods_of, post

from preheat_operator.admission import Entry, admit
from preheat_operator.loader_container import LOADER
from preheat_operator.settings import Settings

SETTINGS = Settings("preheat-system", "registry.example.org/preheat-loader:1")
NODES = 100
#: With the fewest words of a real message; the rest of it is counted in bytes.
SIZE = {"sizeBytes": 660_000_000, "format": "torch-zip", "tensors": 148, "parameters": 55_000_000}


def run_pods(api: ApiServer, each: int) -> None:
    """Make `each` pods of every pipeline, as the webhook injects them; all have loaded a moment ago and run."""
    made = list(_injected(api.listed(f"{API}/checkpointpipelines"), each))
    api.must_send(post(pods_of(pod["metadata"]["namespace"]), pod) for pod in made)
    api.must_send(_reported(pod, "initContainerStatuses", "loaded") for pod in made)


def end_checks(api: ApiServer) -> None:
    """Run the pod of every Job that the controller has made; each has found its source."""
    jobs = api.listed("/apis/batch/v1/jobs")
    made = [_pod_of(job, i) for i, job in enumerate(jobs)]
    api.must_send(post(pods_of(pod["metadata"]["namespace"]), pod) for pod in made)
    api.must_send(_reported(pod, "containerStatuses", "checked") for pod in made)
    api.must_send(map(_counted, jobs))


def _injected(pipelines: Iterable[Mapping[str, Any]], each: int) -> Iterator[dict[str, Any]]:
    for pipeline in pipelines:
        name, namespace = pipeline["metadata"]["name"], pipeline["metadata"]["namespace"]
        for i in range(each):
            made = admit(pod(name, f"{name}-{i}"), namespace, Entry(pipeline), SETTINGS)
            made["metadata"]["namespace"] = namespace
            made["spec"]["nodeName"] = f"node-{i % NODES}"
            yield made


def _counted(job: Mapping[str, Any]) -> Request:
    """What the Job controller writes when a Job's pod has ended."""
    path = f"/apis/batch/v1/namespaces/{job['metadata']['namespace']}/jobs/{job['metadata']['name']}/status"
    return merge(path, {"status": {"startTime": now(), "succeeded": 1, "ready": 0}})


def _pod_of(job: Mapping[str, Any], number: int) -> dict[str, Any]:
    name, namespace, template = job["metadata"]["name"], job["metadata"]["namespace"], job["spec"]["template"]
    labels = {**template["metadata"]["labels"], "job-name": name}
    metadata = {"name": f"{name}-0", "namespace": namespace, "labels": labels}
    spec = {**template["spec"], "nodeName": f"node-{number % NODES}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _reported(made: Mapping[str, Any], field: str, outcome: str) -> Request:
    """The status that a kubelet writes when the loader has ended well."""
    name, namespace = made["metadata"]["name"], made["metadata"]["namespace"]
    pipeline = made["metadata"]["labels"].get(LABEL) or made["metadata"]["labels"]["preheat.dev/check"]
    source = {"uri": f"s3://models/checkpoints/{pipeline}.ckpt", "version": "e1", **SIZE, "selectedBytes": 220_000_000}
    message = json.dumps({"outcome": outcome, "source": source, "fetchedBytes": 220_100_000, "seconds": 2.5})
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now(), "message": message}
    container = {"name": LOADER, "image": "loader:1", "imageID": "loader:1", "ready": True, "restartCount": 0}
    status = {"phase": "Running", field: [{**container, "state": {"terminated": ended}}]}
    return merge(f"{pods_of(namespace)}/{name}/status", {"status": status})
