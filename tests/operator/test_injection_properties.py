"""What holds of every pod, however odd: hypothesis makes them up."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import jsonpatch
from any_pod import any_pod, consistent, names
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from preheat_operator.api import Pipeline
from preheat_operator.injection import inject
from preheat_operator.json_patch import json_patch
from preheat_operator.loader_resources import _amount, loader_resources, quality_of_service
from preheat_operator.refusal import PodRefusedError
from preheat_operator.settings import Settings

SETTINGS = Settings(namespace="preheat-system", loader_image="loader:1")


def make_pipeline() -> Pipeline:
    metadata = {"name": "finetune", "namespace": "team-a", "uid": "u", "generation": 1}
    return Pipeline.parse({"metadata": metadata, "spec": {"stages": [{"s3": {"bucket": "b", "key": "k"}}]}})


PIPELINE = make_pipeline()


def injected(pod: dict[str, Any]) -> dict[str, Any]:
    try:
        return inject(pod, PIPELINE, SETTINGS)
    except PodRefusedError:
        assume(False)
        raise


@given(any_pod)
def test_the_second_pass_changes_nothing(pod: dict[str, Any]) -> None:
    once = injected(pod)
    assert inject(once, PIPELINE, SETTINGS) == once


@given(any_pod)
def test_the_patch_turns_the_given_pod_into_the_injected_one(pod: dict[str, Any]) -> None:
    after = injected(pod)
    assert jsonpatch.apply_patch(pod, json_patch(pod, after)) == after


@given(any_pod)
def test_the_given_pod_is_never_changed_not_even_when_it_is_refused(pod: dict[str, Any]) -> None:
    before = copy.deepcopy(pod)
    with suppress(PodRefusedError):
        inject(pod, PIPELINE, SETTINGS)
    assert pod == before


@given(any_pod)
def test_nothing_that_was_there_is_lost(pod: dict[str, Any]) -> None:
    before, after = pod["spec"], injected(pod)["spec"]
    assert [c["name"] for c in after["containers"]] == [c["name"] for c in before["containers"]]
    assert after["initContainers"][: len(before.get("initContainers") or [])] == (before.get("initContainers") or [])
    assert after["volumes"][: len(before.get("volumes") or [])] == (before.get("volumes") or [])
    touched = {"containers", "initContainers", "volumes"}
    assert {k: v for k, v in after.items() if k not in touched} == {k: v for k, v in before.items() if k not in touched}
    for old, new in zip(before["containers"], after["containers"], strict=True):
        kept = [entry for entry in new.get("env") or [] if entry["name"] != "PYTHONPATH"]
        theirs = [entry for entry in old.get("env") or [] if entry["name"] != "PYTHONPATH"]
        assert kept[len(kept) - len(theirs) :] == theirs
        assert {**new, "env": 0, "volumeMounts": 0} == {**old, "env": 0, "volumeMounts": 0}


@given(any_pod, st.data())
def test_containers_that_are_not_named_stay_as_they_are(pod: dict[str, Any], data: st.DataObject) -> None:
    names = [container["name"] for container in pod["spec"]["containers"]]
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    metadata = {**pod["metadata"], "annotations": {"preheat.dev/containers": ", ".join(chosen)}}
    after = injected({**pod, "metadata": metadata})["spec"]["containers"]
    for old, new in zip(pod["spec"]["containers"], after, strict=True):
        assert (new == old) is (new["name"] not in chosen)


@given(any_pod)
def test_the_patch_touches_only_what_is_added(pod: dict[str, Any]) -> None:
    for operation in json_patch(pod, injected(pod)):
        steps = operation["path"].split("/")[1:]
        assert operation["op"] != "remove"
        assert steps[:2] in (["metadata", "annotations"], ["spec", "initContainers"], ["spec", "volumes"]) or (
            steps[:2] == ["spec", "containers"] and steps[3] in ("env", "volumeMounts")
        )


@given(any_pod)
def test_the_qos_class_stays(pod: dict[str, Any]) -> None:
    assert quality_of_service(injected(pod)["spec"]) == quality_of_service(pod["spec"])


def counted(spec: dict[str, Any], kind: Any, name: str) -> Any:
    """What the scheduler and quotas count a pod for, written the way Kubernetes documents it."""
    beside = phase = 0
    for container in spec.get("initContainers") or []:
        amount = _amount(container, kind, name)
        phase = max(phase, beside + amount)
        beside += amount if container.get("restartPolicy") == "Always" else 0
    return max(phase, beside + sum(_amount(app, kind, name) for app in spec["containers"]))


@given(any_pod)
@settings(max_examples=300)
def test_the_pod_counts_for_no_more_than_before(pod: dict[str, Any]) -> None:
    before, after = pod["spec"], injected(pod)["spec"]
    for name in ("cpu", "memory", "nvidia.com/gpu"):
        assert counted(after, "requests", name) == counted(before, "requests", name)
    for name in ("cpu", "memory"):
        if all(_amount(app, "limits", name) for app in before["containers"]):
            assert counted(after, "limits", name) == counted(before, "limits", name)


@given(any_pod)
def test_no_request_of_the_loader_exceeds_its_limit(pod: dict[str, Any]) -> None:
    assert consistent(loader_resources(pod["spec"], SETTINGS.loader_resources))


@given(any_pod)
def test_the_loader_never_runs_as_root(pod: dict[str, Any]) -> None:
    spec = injected(pod)["spec"]
    context = spec["initContainers"][-1]["securityContext"]
    user = context.get("runAsUser", (spec.get("securityContext") or {}).get("runAsUser"))
    assert user != 0
    assert user is not None


keys = st.text("a/~", min_size=1, max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | names,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("a/~", min_size=1, max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values, json_values)
def test_a_patch_between_any_two_documents_is_right(before: Any, after: Any) -> None:
    patched = jsonpatch.apply_patch({"document": before}, json_patch({"document": before}, {"document": after}))
    assert patched == {"document": after}
