"""The init container that brings the checkpoint: everything it needs travels in it, it asks the API for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preheat_operator.api import Pipeline
from preheat_operator.identity import identity_of
from preheat_operator.loader_resources import loader_resources
from preheat_operator.recipe import Recipe, described, literally, read_described, recipe_of
from preheat_operator.run_volume import run_folder, run_mount
from preheat_operator.settings import Settings

LOADER = "preheat-loader"
VOLUME = "preheat"
MOUNT_PATH = "/preheat"
#: Where a running loader is asked how far it is; outside the range from which systems give ports to clients.
PROGRESS_VARIABLE, PROGRESS_PORT = "PREHEAT_PROGRESS_PORT", 18738
COMMAND = ("python", "-m", "preheat.loader")
CHECK_COMMAND = ("python", "-m", "preheat.source_check")
#: The user of the loader where the pod does not say who it runs as; also that of its image.
USER = 65532

Object = Mapping[str, Any]

_HARDENED: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def desired_loader(
    pod_spec: Object,
    receivers: Sequence[Object],
    pipeline: Pipeline,
    settings: Settings,
    shim: str,
    pin: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The loader for one pod, of the source's version that `pin` names.

    Raises CheckpointConfigError when the pipeline does not fit into its environment, PodRefusedError when the pod
    has no volume with the run that the pipeline resumes.
    """
    recipe = recipe_of(pipeline, settings, pin)
    resources = loader_resources(pod_spec, recipe.resources)
    identity, mounts = identity_of(pod_spec.get("containers") or ())
    mounts = [*mounts, *_of_run(pipeline, receivers, mounts)]
    return {
        "name": LOADER,
        "image": settings.loader_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(COMMAND),
        # Of two with one name the later counts.
        "env": [*identity, *_environment(recipe, settings, shim), *_progress(pod_spec, settings)],
        **({"resources": resources} if resources else {}),
        "volumeMounts": [{"name": VOLUME, "mountPath": MOUNT_PATH}, *mounts],
        "securityContext": security_context(pod_spec, receivers),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def check_container(pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    """The loader's image, told the same, that reads the source and writes nothing; raises as `desired_loader` does."""
    return {
        "name": LOADER,
        "image": settings.loader_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(CHECK_COMMAND),
        "env": _environment(recipe_of(pipeline, settings), settings, "off"),
        "resources": settings.loader_resources,
        "securityContext": _HARDENED,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def is_loader_of(container: Object, pipeline: Pipeline) -> bool:
    """Whether we made this init container for the pipeline's present spec; others may have added to it.

    A pod that is copied from a running one brings its loader along, and with it the checkpoint that was meant then.
    """
    told, present = described_in(container), read_described(described(pipeline))
    same = all(told.get(key) == present[key] for key in ("name", "namespace", "spec"))
    return same and container.get("command") == list(COMMAND)


def described_in(container: Object) -> Object:
    """What a loader was told of its pipeline, empty when nothing; anybody may have written it, and nothing raises."""
    return read_described(str(variable_in(container, "PREHEAT_PIPELINE")))


def variable_in(container: Object, name: str) -> object:
    """The value of a variable in a container that anybody may have written; None: it has none."""
    entries = container.get("env")
    named = [each for each in (entries if isinstance(entries, list) else ()) if isinstance(each, Mapping)]
    return next((each.get("value") for each in reversed(named) if each.get("name") == name), None)  # the last counts


def installed(settings: Settings) -> list[dict[str, Any]]:
    """The variables that the installation gives to every container of ours."""
    return [{"name": name, "value": literally(value)} for name, value in settings.loader_environment.items()]


def _environment(recipe: Recipe, settings: Settings, shim: str) -> list[dict[str, Any]]:
    uid = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}
    return [
        *installed(settings),
        {"name": "PREHEAT_PIPELINE", "value": recipe.pipeline},
        {"name": "PREHEAT_VOLUME", "value": MOUNT_PATH},
        {"name": "PREHEAT_POD_UID", "valueFrom": uid},
        {"name": "PREHEAT_SHIM", "value": shim},
        *recipe.environment,
    ]


def _of_run(pipeline: Pipeline, receivers: Sequence[Object], others: Sequence[Object]) -> list[dict[str, Any]]:
    """The mount of the volume with the run that the pipeline resumes, unless it is among `others` already."""
    folder = run_folder(pipeline)
    mounts = [run_mount(folder, receivers)] if folder else []
    return [mount for mount in mounts if all(each["mountPath"] != mount["mountPath"] for each in others)]


def _progress(pod_spec: Object, settings: Settings) -> list[dict[str, Any]]:
    """On the network of its node a loader would take the port of all others there."""
    if not settings.progress or pod_spec.get("hostNetwork"):
        return []
    return [{"name": PROGRESS_VARIABLE, "value": str(PROGRESS_PORT)}]


def security_context(pod_spec: Object, receivers: Sequence[Object]) -> dict[str, Any]:
    """What Pod Security `restricted` demands, as the user that the training runs as."""
    return {**_user(pod_spec, receivers), **_HARDENED}


def _user(pod_spec: Object, receivers: Sequence[Object]) -> dict[str, int]:
    if (pod_spec.get("securityContext") or {}).get("runAsUser"):
        return {}  # inherited
    for container in receivers:
        context = container.get("securityContext") or {}
        if context.get("runAsUser"):
            return {key: context[key] for key in ("runAsUser", "runAsGroup") if context.get(key) is not None}
    return {"runAsUser": USER}
