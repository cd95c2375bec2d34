"""Pod in, pod out: gives a pod the loader, the volume, the mounts and the environment of its pipeline.

Pure: no clock, no API. Adds and never removes; a second pass over its own output changes nothing, whatever other
webhooks added in between. What cannot be added without changing what the pod's author wrote is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from preheat_operator.api import Pipeline
from preheat_operator.loader_container import LOADER, MOUNT_PATH, VOLUME, desired_loader, is_loader_of
from preheat_operator.mounts import cleaned
from preheat_operator.quantity import human_bytes, parse_quantity
from preheat_operator.recipe import volume_of
from preheat_operator.refusal import PodRefusedError
from preheat_operator.room import evicting_limit
from preheat_operator.settings import Settings
from preheat_operator.upload_container import UPLOAD, desired_upload, ending, hurried, is_upload_of

CONTAINERS = "preheat.dev/containers"
SHIM = "preheat.dev/shim"
INJECTED = "preheat.dev/injected"
#: Where a policy injects: why it cannot. A pod that has it is refused.
REFUSED = "preheat.dev/refused"

SHIM_MODES = ("auto", "manual", "off")
COMFORTABLE_MEMORY = "64Mi"

Object = dict[str, Any]


def inject(
    pod: Mapping[str, Any], pipeline: Pipeline, settings: Settings, pin: Mapping[str, str] | None = None
) -> Object:
    """A new pod that starts with the pipeline's checkpoint, in the version that `pin` names.

    Raises PodRefusedError; the given pod is not changed.
    """
    metadata, spec = dict(pod.get("metadata") or {}), dict(pod.get("spec") or {})
    annotations = metadata.get("annotations") or {}
    _refuse_windows(spec)
    shim = _shim_mode(annotations)
    containers = spec.get("containers") or []
    receivers = _receivers(containers, annotations)
    if not _has(spec, LOADER, lambda container: is_loader_of(container, pipeline), "loader"):
        chosen = [container for container in containers if container["name"] in receivers]
        loader = desired_loader(spec, chosen, pipeline, settings, shim, pin)
        spec["initContainers"] = [*(spec.get("initContainers") or []), loader]
        metadata["annotations"] = {**annotations, INJECTED: f"{pipeline.name}@{pipeline.generation}"}
    if pipeline.spec.get("upload"):
        _add_upload(spec, receivers, pipeline, settings)
    spec["volumes"] = _volumes(spec.get("volumes") or [], pipeline, pin)
    spec["containers"] = [
        _receiving(container, pipeline, shim) if container["name"] in receivers else container
        for container in containers
    ]
    return {**pod, "metadata": metadata, "spec": spec}


def _add_upload(spec: Object, receivers: set[str], pipeline: Pipeline, settings: Settings) -> None:
    """The container that sends what the training saves, and the time for that at the pod's end."""
    if not _has(spec, UPLOAD, lambda container: is_upload_of(container, pipeline), "upload"):
        chosen = [container for container in spec.get("containers") or [] if container["name"] in receivers]
        container = desired_upload(spec, chosen, pipeline, settings)
        spec["initContainers"] = [*(spec.get("initContainers") or []), container]
    if seconds := ending(spec, pipeline):
        spec["terminationGracePeriodSeconds"] = seconds


def cautions(pod: Mapping[str, Any], pin: Mapping[str, Any] | None = None) -> list[str]:
    """What the author of an injected pod should know, though nothing is refused."""
    found = []
    for container in pod["spec"]["containers"]:
        variables = {entry["name"]: entry.get("value") for entry in container.get("env") or ()}
        if container.get("envFrom") and str(variables.get("PYTHONPATH")).endswith("/shim"):
            found.append(
                f"container {container['name']} takes variables from envFrom: a PYTHONPATH among them is replaced. "
                "Write it under env to have it joined"
            )
    loader = next(each for each in pod["spec"]["initContainers"] if each["name"] == LOADER)
    memory = loader.get("resources", {}).get("limits", {}).get("memory", COMFORTABLE_MEMORY)
    if parse_quantity(memory) < parse_quantity(COMFORTABLE_MEMORY):
        found.append(
            f"the loader is limited to {memory} of memory as the pod's own containers are, and may need "
            f"{COMFORTABLE_MEMORY}. Raise theirs if it is killed"
        )
    if any(each["name"] == UPLOAD for each in pod["spec"]["initContainers"]) and (seconds := hurried(pod["spec"])):
        found.append(
            f"the last checkpoint has to be sent within {seconds} s of the training's end, or it waits for a pod with "
            "the same volume. Raise terminationGracePeriodSeconds, or set upload.graceSeconds"
        )
    size, volume = (pin or {}).get("outputBytes"), next(v for v in pod["spec"]["volumes"] if v["name"] == VOLUME)
    on_disk = "emptyDir" in volume and (volume["emptyDir"] or {}).get("medium") != "Memory"
    if size and on_disk and (limit := evicting_limit(pod["spec"], size)):
        found.append(
            f"the pod is limited to {human_bytes(limit)} of ephemeral storage, and the bundle takes "
            f"{human_bytes(size)}: it will be evicted. Raise limits of ephemeral-storage"
        )
    return found


def _refuse_windows(spec: Object) -> None:
    system = (spec.get("os") or {}).get("name") or (spec.get("nodeSelector") or {}).get("kubernetes.io/os")
    if system == "windows":
        raise PodRefusedError("the pod is for Windows, the loader for Linux", remedy="Remove its label")


def _shim_mode(annotations: Mapping[str, str]) -> str:
    mode = annotations.get(SHIM, "auto")
    if mode not in SHIM_MODES:
        raise PodRefusedError(f"annotation {SHIM} is {mode!r}", remedy=f"Choose one of {', '.join(SHIM_MODES)}")
    return mode


def _receivers(containers: Sequence[Object], annotations: Mapping[str, str]) -> set[str]:
    """Names of the containers that receive the checkpoint: those annotated, else those with a GPU, else all."""
    names = [container["name"] for container in containers]
    if CONTAINERS in annotations:
        wanted = [name.strip() for name in annotations[CONTAINERS].split(",")]
        if unknown := [name for name in wanted if name not in names]:
            raise PodRefusedError(
                f"annotation {CONTAINERS} names {unknown[0]!r}, which is no container of the pod",
                remedy=f"Choose among {', '.join(names)}",
            )
        return set(wanted)
    return {container["name"] for container in containers if _has_gpu(container)} or set(names)


def _has_gpu(container: Object) -> bool:
    resources = container.get("resources") or {}
    amounts = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    return any("gpu" in name.lower() and parse_quantity(amount) > 0 for name, amount in amounts.items())


def _has(spec: Object, name: str, ours: Callable[[Object], bool], role: str) -> bool:
    """Whether an init container of that name is ours; raises PodRefusedError for another one of that name."""
    present = [each for each in spec.get("initContainers") or () if each["name"] == name]
    if present and ours(present[0]):
        return True
    if present or any(each["name"] == name for each in spec.get("containers") or ()):
        raise PodRefusedError(
            f"the pod has a container named {name} that is not the {role} of this pipeline as it is now",
            remedy="Rename it; if the pod was copied from a running one, remove it",
        )
    return False


def _volumes(theirs: Sequence[Object], pipeline: Pipeline, pin: Mapping[str, Any] | None) -> list[Object]:
    """The pod's volumes with ours. One that is there need not have the limit that follows from the checkpoint."""
    if _present(theirs, {"name": VOLUME, **volume_of(pipeline)}, "name", "volume"):
        return list(theirs)
    return [*theirs, {"name": VOLUME, **volume_of(pipeline, pin)}]


def _receiving(container: Object, pipeline: Pipeline, shim: str) -> Object:
    return {**container, "env": _environment(container, pipeline, shim), "volumeMounts": _mounts(container)}


def _mounts(container: Object) -> list[Object]:
    """The container's mounts with ours; none of theirs may hide the bundle or a part of it."""
    ours = {"name": VOLUME, "mountPath": MOUNT_PATH, "readOnly": True}
    theirs, present = list(container.get("volumeMounts") or []), False
    for mount in theirs:
        path = cleaned(mount.get("mountPath", ""))
        if not f"{path}/".startswith(f"{MOUNT_PATH}/"):
            continue
        if not _covers({**mount, "mountPath": path}, ours) or mount.get("subPath") or mount.get("subPathExpr"):
            raise _occupied(f"mount of container {container['name']} {path}")
        present = True
    return theirs if present else [*theirs, ours]


def _environment(container: Object, pipeline: Pipeline, shim: str) -> list[Object]:
    """The container's variables after ours: Kubernetes expands references only to what stands before them."""
    folder = f"{MOUNT_PATH}/pods/$(PREHEAT_POD_UID)"
    uid = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}
    ours: list[Object] = [
        {"name": "PREHEAT_POD_UID", "valueFrom": uid},
        {"name": "PREHEAT_BUNDLE", "value": f"{folder}/bundle"},
        {"name": "PREHEAT_SHIM", "value": shim},
        {"name": "PREHEAT_ON_FAILURE", "value": pipeline.parsed.on_failure},
    ]
    theirs = list(container.get("env") or [])
    if shim != "off":
        theirs = _python_path(theirs, f"{folder}/shim", container["name"])
    where = f"variable of container {container['name']}"
    missing = [variable for variable in ours if not _present(theirs, variable, "name", where)]
    return _uid_first([*missing, *theirs])


def _uid_first(variables: list[Object]) -> list[Object]:
    """The variables with the pod's uid before all others when it stands behind one that refers to it."""
    place = next(i for i, variable in enumerate(variables) if variable["name"] == "PREHEAT_POD_UID")
    if not any("$(PREHEAT_POD_UID)" in (variable.get("value") or "") for variable in variables[:place]):
        return variables
    return [variables[place], *variables[:place], *variables[place + 1 :]]


def _python_path(variables: list[Object], shim: str, container: str) -> list[Object]:
    places = [i for i, variable in enumerate(variables) if variable["name"] == "PYTHONPATH"]
    if not places:
        return [{"name": "PYTHONPATH", "value": shim}, *variables]
    place = places[-1]  # of several the last one counts
    if "valueFrom" in variables[place]:
        raise PodRefusedError(
            f"container {container} takes PYTHONPATH from a ConfigMap, Secret or field, to which nothing can be added",
            remedy=f"Write it as a value; or annotate the pod with {SHIM}: off, install preheat in the image and call "
            "preheat.apply(model)",
        )
    theirs = variables[place].get("value") or ""
    if theirs == shim or theirs.startswith(f"{shim}:"):
        return variables
    joined = {"name": "PYTHONPATH", "value": f"{shim}:{theirs}" if theirs else shim}
    return [*variables[:place], joined, *variables[place + 1 :]]


def _present(existing: Sequence[Object], wanted: Object, key: str, what: str) -> bool:
    """Whether `wanted` is in the list; raises PodRefusedError when something else has its place."""
    rivals = [entry for entry in existing if entry.get(key) == wanted[key]]
    if any(not _covers(entry, wanted) for entry in rivals):
        raise _occupied(f"{what} {wanted[key]}")
    return bool(rivals)


def _occupied(what: str) -> PodRefusedError:
    return PodRefusedError(f"{what} exists with other content", remedy="Preheat needs it: rename or remove it")


def _covers(existing: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; the API server and other webhooks add defaults of their own."""
    if isinstance(wanted, dict) and isinstance(existing, dict):
        return all(
            _same_size(existing.get(key), value) if key == "sizeLimit" else _covers(existing.get(key), value)
            for key, value in wanted.items()
        )
    return bool(existing == wanted)


def _same_size(existing: Any, wanted: str | int) -> bool:
    """The API server writes 1024Mi as 1Gi."""
    return existing is not None and parse_quantity(existing) == parse_quantity(wanted)
