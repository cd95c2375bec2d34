"""What is read of a cluster, from a kubectl that answers out of a list of objects; tests/e2e asks a real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preheat_operator.plugin.cluster import Cluster
from preheat_operator.plugin.installation import DEFAULTS
from preheat_operator.plugin.kubectl import Kubectl, NotAllowedError, NotThereError

Object = Mapping[str, Any]


class Listed(Kubectl):
    """Answers as kubectl does for somebody who may read everything but some kinds."""

    objects: tuple[Object, ...] = ()
    forbidden: tuple[str, ...] = ()

    def get(self, *what: str, namespace: str | None = None) -> Object:
        kind, names = what[0].partition(".")[0].removesuffix("s"), [word for word in what[1:] if "=" not in word]
        if kind in self.forbidden:
            raise NotAllowedError(f"{kind} is forbidden")
        found = [each for each in self.objects if each["kind"].lower() == kind]
        if not [name for name in names if not name.startswith("-")]:
            return {"kind": "List", "items": found}
        for each in found:
            if each["metadata"]["name"] == names[0]:
                return each
        raise NotThereError(f"{kind} {names[0]} not found")


def cluster(*objects: Object, forbidden: tuple[str, ...] = ()) -> Cluster:
    class Kubectl(Listed):
        pass

    Kubectl.objects, Kubectl.forbidden = objects, forbidden
    return Cluster(Kubectl())


def made(kind: str, name: str, by: Object | None = None, **content: Any) -> dict[str, Any]:
    owner = {"apiVersion": "batch/v1", "controller": True, **{k: (by or {}).get(k) for k in ("kind",)}}
    owners = [{**owner, "name": by["metadata"]["name"], "uid": by["metadata"]["uid"]}] if by else []
    metadata = {"name": name, "namespace": "team-a", "uid": f"{kind}-{name}", "ownerReferences": owners}
    return {"kind": kind, "metadata": metadata, **content}


CRON = made("CronJob", "nightly")
JOB = made("Job", "nightly-1", CRON)
PODS = [made("Pod", "nightly-1-x", JOB), made("Pod", "other")]
SERVICE = {"namespace": "preheat-system", "name": "preheat-webhook"}
HOOK = made(
    "MutatingWebhookConfiguration",
    "preheat",
    webhooks=[{"name": "pods.preheat.dev", "clientConfig": {"service": SERVICE}}],
)


def deployment(**variables: str) -> dict[str, Any]:
    env = [{"name": "PREHEAT_NAMESPACE", "valueFrom": {}}, *({"name": k, "value": v} for k, v in variables.items())]
    template = {"spec": {"containers": [{"name": "webhook", "env": env}]}}
    found = made("Deployment", "preheat-webhook", spec={"template": template}, status={"readyReplicas": 2})
    labels = {"app.kubernetes.io/component": "webhook"}
    return {**found, "metadata": {**found["metadata"], "namespace": "preheat-system", "labels": labels}}


def test_the_pods_of_a_workload_are_found_through_what_stands_between() -> None:
    assert [each["metadata"]["name"] for each in cluster(CRON, JOB, *PODS).pods_of(CRON)] == ["nightly-1-x"]


def test_owners_are_followed_upwards() -> None:
    assert list(cluster(CRON, JOB, *PODS).owners(PODS[0])) == ["job/nightly-1", "cronjob/nightly"]


def test_an_owner_that_may_not_be_read_is_a_note() -> None:
    asked = cluster(CRON, JOB, *PODS, forbidden=("cronjob",))
    assert list(asked.owners(PODS[0])) == ["job/nightly-1"]
    assert asked.notes == ["you may not read CronJobs, one of which made job/nightly-1"]


def test_the_settings_are_those_that_the_webhook_runs_with() -> None:
    found = cluster(HOOK, deployment(PREHEAT_LOADER_IMAGE="mirror/loader:2")).installation()
    assert found.settings.loader_image == "mirror/loader:2"
    assert (found.origin, found.ready_replicas) == ("deployment preheat-system/preheat-webhook", 2)


def test_settings_that_cannot_be_told_are_the_charts() -> None:
    assert cluster(HOOK, deployment()).installation().settings == DEFAULTS
    assert cluster(HOOK).installation().settings == DEFAULTS


def test_without_rights_everything_is_assumed_and_said_to_be() -> None:
    kinds = (
        "mutatingwebhookconfiguration",
        "mutatingadmissionpolicie",
        "validatingadmissionpolicybinding",
        "deployment",
        "namespace",
    )
    found = cluster(HOOK, deployment(), forbidden=(*kinds, "checkpointpipeline")).known("team-a")
    assert (found.installation.settings, found.installation.configurations, found.pipelines) == (DEFAULTS, None, None)
    assert len(found.notes) == 6
    assert all(note.startswith("you may not read ") for note in found.notes)


def test_a_cluster_without_the_resource_has_no_pipelines() -> None:
    class NoSuchKind(Listed):
        def get(self, *what: str, namespace: str | None = None) -> Object:
            raise NotThereError("the server doesn't have a resource type")

    assert Cluster(NoSuchKind()).known("team-a").pipelines == {}
