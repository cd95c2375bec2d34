"""From the objects of some files to the injected ones, with what their author should know. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from preheat.errors import CheckpointError
from preheat_operator.admission import Entry
from preheat_operator.api import KIND, LABEL
from preheat_operator.injection import Object, cautions
from preheat_operator.plugin.documents import name_of
from preheat_operator.plugin.pod_templates import PodTemplate, pod_templates, with_pods
from preheat_operator.plugin.shapes import UnusableError
from preheat_operator.plugin.subjects import answered, pipelines_of
from preheat_operator.refusal import PodRefusedError
from preheat_operator.settings import Settings


class RefusedError(CheckpointError):
    """The webhook would refuse a pod; the message is its text, behind the object's name."""


@dataclass
class Rendering:
    """The objects that hold pods, injected where they ask for it."""

    settings: Settings
    pipelines: Mapping[str, Mapping[str, Entry]]  # by namespace and name
    namespace: str  # of what says none
    objects: list[Object] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, document: Object) -> None:
        """One more object; raises RefusedError."""
        name, metadata = name_of(document), document.get("metadata") or {}
        where = str(metadata.get("namespace") or self.namespace)
        self.objects.append(with_pods(document, lambda template: self._made(template, name, where)))

    def _made(self, template: PodTemplate, name: str, namespace: str) -> Object:
        if LABEL not in ((template.pod.get("metadata") or {}).get("labels") or {}):
            self.warnings.append(f"{name}: {template.path or 'it'} has no label {LABEL} and stays as it is")
            return template.pod
        try:
            pod = answered(template.pod, namespace, self.pipelines.get(namespace, {}), self.settings)
        except PodRefusedError as error:
            raise RefusedError(f"{name}: {error}") from error
        self.warnings += [f"{name}: {each}" for each in cautions(pod)]
        return pod


def rendered(documents: Sequence[Object], namespace: str, settings: Settings) -> Rendering:
    """What the API server would create; `namespace` is where objects say none. Raises RefusedError."""
    found = Rendering(settings, pipelines_of(documents, namespace), namespace)
    for document in documents:
        if document["kind"] != KIND and pod_templates(document):
            found.add(document)
    if not found.objects:
        raise UnusableError("the files hold no pod, and nothing with a pod template")
    return found
