"""The workloads of docs/workloads.md, as they stand there: each pod of the real controllers gets its checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.commands import wait_until
from cluster.controllers import others_controllers
from e2e.tenant import SECONDS, Tenant

PAGE = Path(__file__).parents[2] / "docs" / "workloads.md"
SHOWN = [
    yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
]
LABEL = "preheat.dev/pipeline"


@dataclass(frozen=True)
class Workload:
    """What is known of a kind: its pods, when it is done, what its pods find in their environment."""

    pods: tuple[str, ...]
    done: str = ""
    variables: tuple[str, ...] = ()


RUN = {
    "Pod": Workload(("trainer-",)),
    "Job": Workload(("job-",), "Complete"),
    "CronJob": Workload(("manual-",)),
    "Deployment": Workload(("deployment-",)),
    "StatefulSet": Workload(("statefulset-0",)),
    "DaemonSet": Workload(("daemonset-",)),
    "PyTorchJob": Workload(("pytorchjob-master-0", "pytorchjob-worker-0"), "Succeeded", ("MASTER_ADDR", "RANK")),
    "JobSet": Workload(("jobset-workers-0-0-", "jobset-workers-0-1-"), "Completed", ("JOB_COMPLETION_INDEX",)),
    "TrainJob": Workload(("trainjob-node-0-0-", "trainjob-node-0-1-"), "Complete", ("PET_NNODES", "PET_NODE_RANK")),
}
#: Shown for other controllers, which cannot be built from a Go module.
NOT_RUN = ("RayCluster", "LeaderWorkerSet", "volcanojob", "queued")


def templates(value: Any) -> Iterator[dict[str, Any]]:
    """Whatever describes pods in a document."""
    if isinstance(value, dict):
        if "containers" in (value.get("spec") or {}):
            yield value
        for each in value.values():
            yield from templates(each)
    elif isinstance(value, list):
        for each in value:
            yield from templates(each)


@pytest.mark.parametrize("document", SHOWN, ids=lambda each: f"{each['kind']}-{each['metadata'].get('name', '')}")
def test_the_label_is_on_pods_and_nowhere_else(document: dict[str, Any]) -> None:
    labelled = [each for each in templates(document) if LABEL in each.get("metadata", {}).get("labels", {})]
    assert len(labelled) == yaml.safe_dump(document).count(LABEL)
    assert labelled or document["kind"] == "TrainJob"
    named = {document["kind"], document["metadata"].get("name")}
    assert named & ({*RUN, "TrainingRuntime"} | set(NOT_RUN))


@pytest.fixture(scope="module")
def workloads(tenant: Tenant) -> Iterator[Tenant]:
    """The controllers run, and everything that the page shows for them was created."""
    with others_controllers(tenant.platform.cluster):
        shown = [each for each in SHOWN if each["kind"] in RUN or each["kind"] == "TrainingRuntime"]
        wanted = [each for each in shown if each["metadata"].get("name") not in NOT_RUN]
        tenant.apply([_with_programs(each, tenant) for each in wanted])
        tenant.kubectl("create", "job", "manual", "--from=cronjob/cronjob")
        yield tenant


def _with_programs(value: Any, tenant: Tenant) -> Any:
    """The document with the programs of this test in place of `python train.py`, which ends, and `python serve.py`."""
    if isinstance(value, list):
        return [_with_programs(each, tenant) for each in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _with_programs(each, tenant) for key, each in value.items()}
    if "command" in value:
        changed["command"] = tenant.container("", stays=value["command"][-1] == "serve.py")["command"]
    if "image" in value:
        changed["image"] = tenant.image
    return changed


@pytest.mark.cluster
@pytest.mark.parametrize("kind", RUN)
def test_each_of_its_pods_finds_the_checkpoint(workloads: Tenant, kind: str) -> None:
    for prefix in RUN[kind].pods:
        wait_until(f"there is a pod {prefix}", lambda prefix=prefix: bool(workloads.pods(prefix)), SECONDS)
        [pod] = workloads.pods(prefix)
        assert pod["spec"]["initContainers"][-1]["name"] == "preheat-loader"
        seen = workloads.told(pod["metadata"]["name"], pod["spec"]["containers"][0]["name"])
        assert set(seen["files"]) >= {"manifest.json", "model.safetensors"}
        assert set(seen["environment"]) >= {"PREHEAT_BUNDLE", *RUN[kind].variables}
    if RUN[kind].done:
        done = f"--for=condition={RUN[kind].done}"
        workloads.kubectl("wait", f"{kind}/{kind.lower()}", done, f"--timeout={SECONDS}s")


@pytest.mark.cluster
def test_a_workers_own_init_container_runs_before_the_loader(workloads: Tenant) -> None:
    wait_until("there is a worker", lambda: bool(workloads.pods("pytorchjob-worker")), SECONDS)
    [worker] = workloads.pods("pytorchjob-worker")
    assert [each["name"] for each in worker["spec"]["initContainers"]] == ["init-pytorch", "preheat-loader"]
