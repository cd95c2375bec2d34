"""What an explanation needs of the cluster, read with the user's own rights; what these do not cover is noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from preheat_operator.admission import Entry
from preheat_operator.api import GROUP, PLURAL
from preheat_operator.plugin.asking import NAMESPACE_NAME
from preheat_operator.plugin.documents import name_of
from preheat_operator.plugin.installation import PART_OF, Installation, with_deployments
from preheat_operator.plugin.kubectl import Kubectl, NotAllowedError, NotThereError
from preheat_operator.plugin.rulings import Known
from preheat_operator.plugin.subjects import pipelines_of

Object = Mapping[str, Any]
Found = TypeVar("Found")

PIPELINES = f"{PLURAL}.{GROUP}"
#: What may stand between a workload and its pods.
_BETWEEN = ("replicasets.apps", "statefulsets.apps", "jobs.batch")
_DEEPEST = 5
_NONE: list[Object] = []
_OURS = f"{PART_OF}=preheat"
_HOOKS = "MutatingWebhookConfigurations: Preheat's is taken to be as the chart makes it"
_POLICIES = "MutatingAdmissionPolicies: whether one injects in place of the webhook is not known"
_BINDINGS = "ValidatingAdmissionPolicyBindings: whether the chart's policies hold is not known"
_NAMESPACES = "namespaces: labels of this one are not known"
_DEPLOYMENTS = "the webhook's Deployment: image and resources of the loader are the chart's defaults"


class Cluster:
    """One cluster; `notes` says what could not be read, and what is assumed instead."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.notes: list[str] = []
        self._kubectl = kubectl

    def known(self, namespace: str) -> Known:
        """Everything around the pods of a namespace."""
        with ThreadPoolExecutor() as pool:
            installation = pool.submit(self.installation)
            labels, pipelines = pool.submit(self._labels, namespace), pool.submit(self._pipelines, namespace)
        return Known(installation.result(), labels.result(), pipelines.result(), tuple(sorted(self.notes)))

    def installation(self) -> Installation:
        """Preheat, as far as it can be seen."""
        get = self._kubectl.items
        with ThreadPoolExecutor() as pool:
            hooks = pool.submit(self._readable, _HOOKS, _NONE, partial(get, "mutatingwebhookconfigurations"))
            ours = partial(get, "validatingadmissionpolicybindings", "-l", _OURS)
            bindings = pool.submit(self._readable, _BINDINGS, _NONE, ours)
            mutating = partial(get, "mutatingadmissionpolicies", "-l", _OURS)  # none before Kubernetes 1.36
            policies = pool.submit(self._readable, _POLICIES, _NONE, mutating)
            found = pool.submit(self.running)
        return replace(
            found.result(), configurations=hooks.result(), bindings=bindings.result(), policies=policies.result()
        )

    def running(self) -> Installation:
        """The settings that Preheat's processes run with, and nothing else."""
        read = partial(self._kubectl.items, "deployments", "-A", "-l", _OURS)
        return with_deployments(Installation(), self._readable(_DEPLOYMENTS, _NONE, read) or ())

    def owners(self, document: Object) -> dict[str, Object]:
        """Who made an object, and who made that, nearest first: their metadata by name."""
        found: dict[str, Object] = {}
        while len(found) < _DEEPEST and (reference := _controller(document)):
            group, _, version = str(reference["apiVersion"]).rpartition("/")
            kind, where = f"{reference['kind'].lower()}.{version}.{group}", document["metadata"]["namespace"]
            read = partial(self._kubectl.get, kind, reference["name"], namespace=where)
            owner = self._readable(f"{reference['kind']}s, one of which made {name_of(document)}", None, read)
            if owner is None:
                break
            found[name_of(owner)] = owner["metadata"]
            document = owner
        return found

    def pods_of(self, workload: Object) -> list[Object]:
        """The pods that a workload has made, itself or through others."""
        namespace = workload["metadata"]["namespace"]
        with ThreadPoolExecutor() as pool:
            reads = {kind: partial(self._kubectl.items, kind, namespace=namespace) for kind in (*_BETWEEN, "pods")}
            read = [pool.submit(self._readable, kind, _NONE, get) for kind, get in reads.items()]
        *between, pods = (each.result() or [] for each in read)
        makers = {workload["metadata"]["uid"]}
        makers |= {each["metadata"]["uid"] for found in between for each in found if _made_by(each, makers)}
        return [pod for pod in pods if _made_by(pod, makers)]

    def _labels(self, namespace: str) -> Mapping[str, str]:
        """The namespace's; of one that may not be read, that by which the chart excludes namespaces."""
        found = self._readable(_NAMESPACES, None, partial(self._kubectl.get, "namespace", namespace)) or {}
        return {NAMESPACE_NAME: namespace, **((found.get("metadata") or {}).get("labels") or {})}

    def _pipelines(self, namespace: str) -> Mapping[str, Entry] | None:
        get = partial(self._kubectl.items, PIPELINES, namespace=namespace)
        found = self._readable(f"CheckpointPipelines in namespace {namespace}", _NONE, get)
        return None if found is None else pipelines_of(found, namespace).get(namespace, {})

    def _readable(self, what: str, absent: Found, read: Callable[[], Found]) -> Found | None:
        """What was read, `absent` where it does not exist; None and a note where the user may not."""
        try:
            return read()
        except NotThereError:
            return absent
        except NotAllowedError:
            self.notes.append(f"you may not read {what}")
            return None


def _made_by(document: Object, makers: set[str]) -> bool:
    reference = _controller(document)
    return reference is not None and reference["uid"] in makers


def _controller(document: Object) -> Object | None:
    references = document["metadata"].get("ownerReferences") or ()
    return next((each for each in references if each.get("controller")), None)
