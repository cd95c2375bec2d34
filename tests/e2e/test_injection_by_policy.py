"""An installation that goes over to the MutatingAdmissionPolicy and back: pods have their bundle all along."""

from __future__ import annotations

import pytest

from cluster.binaries import KUBERNETES, NEWEST
from cluster.commands import wait_until
from demo.install import CHART
from demo.platforms import Local
from e2e.tenant import SECONDS, Tenant, pod

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(KUBERNETES is not NEWEST, reason="MutatingAdmissionPolicies are there since 1.36"),
]


def inject_by(platform: Local, way: str) -> None:
    """What docs/injection.md says."""
    where = ["--namespace", "preheat-system", "--reuse-values", "--set", f"injection={way}"]
    platform.helm("upgrade", "preheat", str(CHART), *where, "--wait", "--timeout", "180s")


def assert_a_pod_has_its_bundle(tenant: Tenant, name: str) -> None:
    tenant.apply([pod(name, {"containers": [tenant.container("train")]})])
    seen = tenant.told(name, "train")
    assert seen["manifest"]["totals"]["tensors"] == 1
    assert seen["manifest"]["source"]["uri"] == "s3://models/tiny.safetensors"
    wait_until("the pod is counted", lambda: _loaded(tenant, name), SECONDS)


def _loaded(tenant: Tenant, name: str) -> bool:
    [status] = tenant.get("pod", name)["status"]["initContainerStatuses"]
    return status["state"].get("terminated", {}).get("exitCode") == 0


def test_an_installation_goes_over_to_the_policy_and_back(installed: Local, tenant: Tenant) -> None:
    webhook = ("get", "mutatingwebhookconfiguration", "-l", "app.kubernetes.io/name=preheat", "-o", "name")
    try:
        inject_by(installed, "policy")
        assert not installed.kubectl(*webhook)

        def described() -> bool:
            return bool(tenant.get("checkpointpipeline", "finetune").get("status", {}).get("injection"))

        wait_until("the controller has said what goes into pods", described, SECONDS)
        assert_a_pod_has_its_bundle(tenant, "by-policy")
    finally:
        inject_by(installed, "webhook")
    assert installed.kubectl(*webhook)
    assert_a_pod_has_its_bundle(tenant, "by-webhook")
