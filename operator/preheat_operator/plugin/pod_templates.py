"""The pod templates in any object: what has a `spec` with `containers` is one, wherever it stands.

So no list of kinds has to be kept: CronJob, JobSet, PyTorchJob and RayCluster each hold theirs in a way of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class PodTemplate:
    """A pod, or what pods are made from: `metadata` and `spec`."""

    path: str  # where it stands, such as spec.template; empty: the object is a pod
    pod: Object
    around: Mapping[str, Object] = field(default_factory=dict)  # templates that it is a part of: their metadata


def pod_templates(document: Object) -> list[PodTemplate]:
    """All of an object's, in their order."""
    found: list[PodTemplate] = []

    def note(template: PodTemplate) -> Object:
        found.append(template)
        return template.pod

    with_pods(document, note)
    return found


def with_pods(document: Object, change: Callable[[PodTemplate], Object]) -> Object:
    """The object with what `change` makes of each of its pod templates."""
    if document.get("kind") == "Pod":
        return change(PodTemplate("", document))
    return {
        key: value if key in ("metadata", "status") else _changed(value, change, key, {})
        for key, value in document.items()
    }


def _changed(value: Any, change: Callable[[PodTemplate], Object], path: str, around: Mapping[str, Object]) -> Any:
    if isinstance(value, Mapping):
        if "." in path and _is_template(value):
            return change(PodTemplate(path, dict(value), around))
        if isinstance(value.get("metadata"), Mapping):
            around = {**around, path: value["metadata"]}
        return {key: _changed(each, change, f"{path}.{key}", around) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_changed(each, change, f"{path}[{place}]", around) for place, each in enumerate(value)]
    return value


def _is_template(value: Mapping[str, Any]) -> bool:
    spec = value.get("spec")
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    return isinstance(containers, list) and bool(containers) and all(isinstance(each, Mapping) for each in containers)
