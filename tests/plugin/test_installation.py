"""What the chart renders is what the plugin looks for: its names, labels, selectors and variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rendered_yaml import documents

from preheat_operator.plugin.asking import NAMESPACE_NAME, passed_by
from preheat_operator.plugin.installation import PART_OF, Installation, with_deployments

RENDERED = Path(__file__).parents[1] / "charts" / "rendered"
POD = {"metadata": {"labels": {"preheat.dev/pipeline": "finetune"}}}
CASES = ("default", "full", "policy")


def installed(case: str) -> Installation:
    """The cluster after `helm install`, when the webhook has published its certificate and is ready."""
    rendered = documents((RENDERED / f"{case}.yaml").read_text())

    def of(kind: str) -> list[dict[str, Any]]:
        return [each for each in rendered if each["kind"] == kind]

    ours = [each for each in rendered if each["metadata"].get("labels", {}).get(PART_OF) == "preheat"]
    for hook in (hook for each in of("MutatingWebhookConfiguration") for hook in each["webhooks"]):
        hook["clientConfig"]["caBundle"] = "Q0E="
    for deployment in of("Deployment"):
        deployment["status"] = {"readyReplicas": 1}
    known = Installation(
        configurations=of("MutatingWebhookConfiguration"),
        policies=[each for each in of("MutatingAdmissionPolicy") if each in ours],
        bindings=[each for each in of("ValidatingAdmissionPolicyBinding") if each in ours],
    )
    return with_deployments(known, [each for each in of("Deployment") if each in ours])


@pytest.mark.parametrize("case", CASES)
def test_a_labelled_pod_is_looked_at_unless_its_namespace_is_left_alone(case: str) -> None:
    assert passed_by(installed(case), POD, {NAMESPACE_NAME: "team-a"}) is None
    left = passed_by(installed(case), POD, {NAMESPACE_NAME: "kube-system"})
    assert left
    assert left.rule == "NamespaceExcluded"


@pytest.mark.parametrize("case", CASES)
def test_the_settings_are_read_from_what_runs(case: str) -> None:
    found = installed(case)
    assert found.origin.endswith("-controller" if case == "policy" else "-webhook")
    assert found.settings.loader_image in (RENDERED / f"{case}.yaml").read_text()
    assert found.requires_loader


def test_the_policy_is_known_where_it_injects() -> None:
    assert [installed(case).policy is not None for case in CASES] == [False, False, True]
