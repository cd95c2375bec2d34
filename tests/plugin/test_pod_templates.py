"""Pod templates are found in the shapes that workloads have, and changed where they stand."""

from __future__ import annotations

from typing import Any

import pytest

from preheat_operator.plugin.pod_templates import pod_templates, with_pods
from preheat_operator.plugin.selectors import selects

POD = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "train"}]}}

SHAPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "Pod": ({"kind": "Pod", **POD}, [""]),
    "Deployment": ({"kind": "Deployment", "spec": {"template": POD}}, ["spec.template"]),
    "CronJob": (
        {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": POD}}}}, ["spec.jobTemplate.spec.template"],
    ),
    "JobSet": (
        {"kind": "JobSet", "spec": {"replicatedJobs": [{"template": {"spec": {"template": POD}}} for _ in "ab"]}},
        [f"spec.replicatedJobs[{n}].template.spec.template" for n in (0, 1)],
    ),
    "PyTorchJob": (
        {"kind": "PyTorchJob", "spec": {"pytorchReplicaSpecs": {n: {"template": POD} for n in ("Master", "Worker")}}},
        [f"spec.pytorchReplicaSpecs.{n}.template" for n in ("Master", "Worker")],
    ),
    "RayCluster": (
        {"kind": "RayCluster", "spec": {"headGroupSpec": {"template": POD}, "workerGroupSpecs": [{"template": POD}]}},
        ["spec.headGroupSpec.template", "spec.workerGroupSpecs[0].template"],
    ),
    "ConfigMap": ({"kind": "ConfigMap", "data": {"spec": "containers"}}, []),
    "TrainJob": ({"kind": "TrainJob", "spec": {"runtimeRef": {"name": "torch"}}}, []),
    "status": ({"kind": "Odd", "status": {"template": POD}, "spec": {"template": {"spec": {"containers": []}}}}, []),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_templates_are_found_where_they_stand(kind: str) -> None:
    document, paths = SHAPES[kind]
    assert [each.path for each in pod_templates(document)] == paths


@pytest.mark.parametrize("kind", SHAPES)
def test_a_change_of_every_template_leaves_the_rest_alone(kind: str) -> None:
    document, paths = SHAPES[kind]
    assert with_pods(document, lambda template: template.pod) == document
    marked = with_pods(document, lambda template: {"marked": template.path})
    assert str(marked).count("marked") == len(paths)


SELECTORS: list[tuple[dict[str, Any] | None, bool]] = [
    (None, True),
    ({}, True),
    ({"matchLabels": {"a": "1"}}, True),
    ({"matchLabels": {"a": "2"}}, False),
    ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
    ({"matchExpressions": [{"key": "b", "operator": "In", "values": ["1"]}]}, False),
    ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
    ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
    ({"matchExpressions": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "DoesNotExist"}]}, True),
]


@pytest.mark.parametrize(("selector", "expected"), SELECTORS)
def test_a_selector_selects_as_in_kubernetes(selector: dict[str, Any] | None, expected: bool) -> None:
    assert selects(selector, {"a": "1"}) is expected
