"""From objects to pods that are, pods to be, and the pipelines that they may name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from preheat_operator import injection
from preheat_operator.admission import Entry, admit, missing
from preheat_operator.api import KIND, LABEL
from preheat_operator.plugin.documents import name_of
from preheat_operator.plugin.pod_templates import pod_templates
from preheat_operator.plugin.shapes import UnusableError
from preheat_operator.settings import Settings

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A pod, or the template of pods to be."""

    name: str  # job/finetune
    namespace: str
    pod: Object
    path: str = ""  # where the template stands in its workload
    around: Mapping[str, Object] = field(default_factory=dict)  # the workload, and templates in it: their metadata
    exists: bool = False  # a pod that was created, not one that is to be
    owners: Mapping[str, Object] = field(default_factory=dict)  # deployment/trainer -> its metadata, nearest first

    @property
    def label(self) -> str | None:
        """The name of its pipeline."""
        return ((self.pod.get("metadata") or {}).get("labels") or {}).get(LABEL)


def subjects_of(document: Object, namespace: str, owners: Mapping[str, Object] | None = None) -> list[Subject]:
    """A pod, or the pods to be of a workload's templates; raises UnusableError where there are none."""
    templates, name = pod_templates(dict(document)), name_of(document)
    metadata = document.get("metadata") or {}
    where = str(metadata.get("namespace") or namespace)
    if not templates:
        raise UnusableError(
            f"{name} holds no pod template", remedy="Explain what it makes: a pod, or a workload that holds one"
        )
    if not templates[0].path:
        return [Subject(name, where, document, exists=bool(metadata.get("uid")), owners=owners or {})]
    return [
        Subject(name, where, each.pod, each.path, {name: metadata, **each.around}, owners=owners or {})
        for each in templates
    ]


def pipelines_of(documents: Iterable[Object], namespace: str) -> dict[str, dict[str, Entry]]:
    """The CheckpointPipelines among some objects, by namespace and name; `namespace` is where they say none.

    One that no API server has seen is taken for new: generation 1.
    """
    found: dict[str, dict[str, Entry]] = {}
    for each in documents:
        if each.get("kind") == KIND:
            metadata = {"namespace": namespace, "generation": 1, **(each.get("metadata") or {})}
            entry = Entry({**each, "metadata": metadata})
            found.setdefault(metadata["namespace"], {})[str(metadata.get("name"))] = entry
    return found


def answered(pod: Object, namespace: str, pipelines: Mapping[str, Entry], settings: Settings) -> injection.Object:
    """The webhook's answer about a labelled pod where these are the namespace's pipelines; raises PodRefusedError."""
    name = pod["metadata"]["labels"][LABEL]
    if name not in pipelines:
        raise missing(namespace, name, sorted(pipelines))
    return admit(pod, namespace, pipelines[name], settings)
