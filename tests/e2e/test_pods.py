"""Pods on the node: every user of a pod reads its bundle, and a pod that starts again in place finds it at once."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from cluster.binaries import KUBERNETES, NEWEST
from cluster.commands import wait_until
from e2e.tenant import PYTHON, SECONDS, Tenant, pod

pytestmark = pytest.mark.cluster

USERS: dict[str, dict[str, Any]] = {
    "root": {},
    "pod-user": {"securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 2000}},
    "restricted": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": 2000}
    },
    "host-network": {"hostNetwork": True, "securityContext": {"runAsUser": 1234}},
}
CONTAINER_USERS: dict[str, list[dict[str, Any]]] = {
    # The loader runs as the first: what it writes has to be there for the second, who shares no group with it.
    "root": [{}, {"runAsUser": 4000, "runAsGroup": 4000}],
    "pod-user": [{}, {"runAsUser": 3000, "runAsGroup": 3000}],
    "restricted": [
        {
            "runAsUser": user,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        for user in (1234, 4321)
    ],
    "host-network": [{}],
}


@pytest.fixture(scope="module")
def users(tenant: Tenant) -> dict[str, list[dict[str, Any]]]:
    """What every container saw, of every pod."""
    pods = []
    for name, spec in USERS.items():
        contexts = enumerate(CONTAINER_USERS[name])
        containers = [tenant.container(f"c{i}", securityContext=context) for i, context in contexts]
        pods.append(pod(name, {"containers": containers, **copy.deepcopy(spec)}))
    tenant.apply(pods)
    return {name: [tenant.told(name, f"c{i}") for i in range(len(CONTAINER_USERS[name]))] for name in USERS}


@pytest.mark.parametrize("name", USERS)
def test_every_user_of_the_pod_reads_the_bundle_and_none_writes_to_it(users: dict[str, Any], name: str) -> None:
    whole = USERS[name].get("securityContext", {})
    for context, seen in zip(CONTAINER_USERS[name], users[name], strict=True):
        assert seen["user"] == context.get("runAsUser", whole.get("runAsUser", 0))
        assert seen["files"].pop("written") == "Read-only file system"
        assert set(seen["files"]) >= {"manifest.json", "model.safetensors"}
        assert seen["manifest"]["totals"]["tensors"] == 1


def loader_of(tenant: Tenant, name: str) -> dict[str, Any]:
    [status] = tenant.get("pod", name)["status"]["initContainerStatuses"]
    return dict(status)


def assert_it_was_quick_when_it_ran_again(tenant: Tenant, name: str) -> None:
    def ready() -> bool:
        status = loader_of(tenant, name)
        # Ready it is since its first run.
        return bool(status["restartCount"] == 1 and status["ready"] and "terminated" in status["state"])

    wait_until("the loader has run again", ready, SECONDS)
    outcome = json.loads(loader_of(tenant, name)["state"]["terminated"]["message"])
    assert (outcome["outcome"], outcome["fetchedBytes"]) == ("reused", 0)
    assert outcome["seconds"] < 1


def test_a_pod_starts_again_in_place_from_the_bundle_it_has_without_its_label_too(tenant: Tenant) -> None:
    spec = {"containers": [tenant.container("train", stays=True)], "restartPolicy": "Always"}
    tenant.apply([pod("again", spec)])
    first = tenant.told("again", "train")
    tenant.kubectl("label", "pod", "again", "preheat.dev/pipeline-")
    tenant.kubectl("debug", "again", f"--image={tenant.image}", "--target=train", "--quiet", "--", PYTHON, "-c", "0")
    tenant.platform.cluster.end_sandbox(tenant.get("pod", "again")["metadata"]["uid"])
    assert_it_was_quick_when_it_ran_again(tenant, "again")
    assert tenant.told("again", "train")["files"] == first["files"]


@pytest.mark.skipif(KUBERNETES is not NEWEST, reason="Kubernetes restarts all containers by a rule since 1.36")
def test_a_rule_that_restarts_all_containers_restarts_the_loader_too(tenant: Tenant) -> None:
    fails_once = "import os, sys\nif not os.path.exists('/mine/x'):\n    open('/mine/x', 'w')\n    sys.exit(42)\n"
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}
    container = tenant.container("train", restartPolicy="Never", restartPolicyRules=[rule])
    container["command"][-1] = fails_once + container["command"][-1]
    container["volumeMounts"] = [{"name": "mine", "mountPath": "/mine"}]
    tenant.apply([pod("rule", {"containers": [container], "volumes": [{"name": "mine", "emptyDir": {}}]})])
    assert_it_was_quick_when_it_ran_again(tenant, "rule")
    assert set(tenant.told("rule", "train")["files"]) >= {"manifest.json", "model.safetensors"}
