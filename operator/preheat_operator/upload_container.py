"""The container that sends what the training saves: there before the training starts, and ended after it.

A native sidecar: Kubernetes ends it last, and starts it again when it dies. It sees the training's volume where the
training sees it, and only reads there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preheat_operator.api import Pipeline
from preheat_operator.identity import identity_of
from preheat_operator.loader_container import installed, security_context
from preheat_operator.loader_resources import sidecar_resources
from preheat_operator.mounts import cleaned, hides_the_image, mount_of, place_of
from preheat_operator.recipe import upload_recipe_of, upload_settings
from preheat_operator.refusal import PodRefusedError
from preheat_operator.settings import Settings

UPLOAD = "preheat-upload"
TOLD = "PREHEAT_UPLOAD"
COMMAND = ("python", "-m", "preheat.uploading.sidecar")
#: Where it is asked what became of what was saved, by who knows its pod's uid.
UPLOADS_VARIABLE, UPLOADS_PORT = "PREHEAT_UPLOADS_PORT", 18739
#: What Kubernetes gives a pod to end where nobody says otherwise, and what is little for a large checkpoint.
GRACE, COMFORTABLE_GRACE = 30, 120

Object = Mapping[str, Any]


def desired_upload(
    pod_spec: Object, receivers: Sequence[Object], pipeline: Pipeline, settings: Settings
) -> dict[str, Any]:
    """The container for one pod; raises PodRefusedError when no volume of the pod holds what is to be sent."""
    recipe = upload_recipe_of(pipeline, settings)
    identity, mounts = identity_of(pod_spec.get("containers") or ())
    mount = _volume(pipeline.spec["upload"]["path"], pod_spec.get("containers") or (), receivers)
    resources = sidecar_resources(pod_spec, recipe.resources, recipe.exact)
    return {
        "name": UPLOAD,
        "image": settings.loader_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(COMMAND),
        "restartPolicy": "Always",
        "env": [
            *identity,
            *installed(settings),
            {"name": TOLD, "value": recipe.settings},
            *recipe.environment,
            *_asked(pod_spec, settings),
        ],
        **({"resources": resources} if resources else {}),
        "volumeMounts": [mount, *(each for each in mounts if each["mountPath"] != mount["mountPath"])],
        "securityContext": security_context(pod_spec, receivers),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def is_upload_of(container: Object, pipeline: Pipeline) -> bool:
    """Whether we made this container for the pipeline's present spec; others may have added to it."""
    told = {"name": TOLD, "value": upload_settings(pipeline)}
    return told in (container.get("env") or ()) and container.get("command") == list(COMMAND)


def ending(pod_spec: Object, pipeline: Pipeline) -> int | None:
    """Seconds that the pod shall have to end, where that is more than it has."""
    wanted = pipeline.spec["upload"].get("graceSeconds") or 0
    present = pod_spec.get("terminationGracePeriodSeconds")
    return wanted if wanted > (GRACE if present is None else present) else None


def hurried(pod_spec: Object) -> int | None:
    """Seconds that a pod has to send its last checkpoint, where that is little."""
    given = pod_spec.get("terminationGracePeriodSeconds")
    seconds = GRACE if given is None else int(given)
    return seconds if seconds < COMFORTABLE_GRACE else None


def _asked(pod_spec: Object, settings: Settings) -> list[dict[str, Any]]:
    """On the network of its node an upload would take the port of all others there."""
    if not settings.progress or pod_spec.get("hostNetwork"):
        return []
    uid = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}
    return [
        {"name": "PREHEAT_POD_UID", "valueFrom": uid},
        {"name": UPLOADS_VARIABLE, "value": str(UPLOADS_PORT)},
    ]


def _volume(path: str, containers: Sequence[Object], receivers: Sequence[Object]) -> dict[str, Any]:
    """The mount of the volume that holds the path: as a container that receives the checkpoint has it, or any other."""
    for container in (*receivers, *containers):
        if mount := mount_of(path, container):
            return _usable(place_of(mount))
    raise PodRefusedError(
        f"upload.path: no container of the pod has a volume at {path}, so what is saved there stays in its container",
        remedy="Mount a volume there, an emptyDir for example, or correct upload.path",
    )


def _usable(mount: dict[str, Any]) -> dict[str, Any]:
    path = cleaned(mount["mountPath"])
    if "subPathExpr" in mount or hides_the_image(path):
        raise PodRefusedError(
            f"upload.path: the upload cannot mount volume {mount['name']} at {path}",
            remedy="Mount it at a path of its own, such as /output, without subPathExpr",
        )
    return {**mount, "readOnly": True}
