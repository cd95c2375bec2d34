"""From what was asked to its explanations: objects of files, or of the cluster with the pods that they have made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from preheat_operator.api import KIND
from preheat_operator.plugin.asking import NAMESPACE_NAME
from preheat_operator.plugin.cluster import Cluster
from preheat_operator.plugin.documents import common_namespace, name_of, read
from preheat_operator.plugin.explanation import Explanation, explain
from preheat_operator.plugin.kubectl import Kubectl, NotThereError
from preheat_operator.plugin.pod_templates import pod_templates
from preheat_operator.plugin.rulings import Known
from preheat_operator.plugin.shapes import UnusableError
from preheat_operator.plugin.subjects import pipelines_of, subjects_of

Object = Mapping[str, Any]

OFFLINE = "offline: the pipelines are those of the files, the installation is taken to be as the chart makes it"


def in_files(files: Sequence[str], namespace: str | None) -> list[Explanation]:
    """Of everything in files that holds pods; raises UnusableError where nothing does."""
    documents = read(files)
    where = common_namespace(documents, namespace)
    holding = [each for each in documents if each["kind"] != KIND and pod_templates(each)]
    if not holding:
        raise UnusableError("the files hold no pod, and nothing with a pod template")
    pipelines = pipelines_of(documents, where)
    found = []
    for subject in (each for document in holding for each in subjects_of(document, where)):
        labels = {NAMESPACE_NAME: subject.namespace}
        known = Known(namespace_labels=labels, pipelines=pipelines.get(subject.namespace, {}), notes=(OFFLINE,))
        found.append(explain(subject, known))
    return found


def in_cluster(kubectl: Kubectl, what: Sequence[str]) -> list[Explanation]:
    """Of what `kubectl get` gives; raises ClusterError, and UnusableError for what holds no pods."""
    got = kubectl.get(*what)
    documents = got["items"] if got["kind"] == "List" else [got]
    if not documents:
        raise NotThereError(f"there are none: {' '.join(what)}")
    cluster = Cluster(kubectl)
    around: dict[str, Known] = {}
    found: list[Explanation] = []
    for document in documents:
        where = str(document["metadata"].get("namespace", ""))
        subjects_of(document, where)  # before anything is read for it
        around[where] = around.get(where) or cluster.known(where)
        found += _with_pods(cluster, document, around[where])
    return found


def _with_pods(cluster: Cluster, document: Object, known: Known) -> Iterator[Explanation]:
    """Of an object, and of the pods that it has made."""
    where, owners, name = document["metadata"]["namespace"], cluster.owners(document), name_of(document)
    pods = cluster.pods_of(document) if document["kind"] != "Pod" else []
    known = replace(known, notes=tuple(dict.fromkeys(cluster.notes)))  # those of the last readings, too
    for subject in subjects_of(document, where, owners):
        yield explain(subject, known)
    for pod in pods:
        [subject] = subjects_of(pod, where, {name: document["metadata"], **owners})
        yield replace(explain(subject, known), workload=name)
