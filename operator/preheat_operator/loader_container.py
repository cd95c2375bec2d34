"""The init container that brings the checkpoint: everything it needs travels in it, it asks the API for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from preheat.errors import CheckpointConfigError
from preheat.spec import to_mapping
from preheat.stage import CheckpointSource
from preheat_operator.api import Pipeline
from preheat_operator.identity import identity_of
from preheat_operator.loader_resources import loader_resources, merged
from preheat_operator.quantity import parse_quantity
from preheat_operator.settings import Settings

LOADER = "preheat-loader"
VOLUME = "preheat"
MOUNT_PATH = "/preheat"
COMMAND = ("python", "-m", "preheat.loader")
CHECK_COMMAND = ("python", "-m", "preheat.source_check")
#: The user of the loader where the pod does not say who it runs as; also that of its image.
USER = 65532
#: A variable of the environment can hold 128 KiB on Linux; the rest is for its name and for doubled dollars.
SPEC_LIMIT = 96 * 1024

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

    Raises CheckpointConfigError when the pipeline does not fit into its environment."""
    chosen = (pipeline.spec.get("loader") or {}).get("resources")
    resources = loader_resources(pod_spec, merged(settings.loader_resources, chosen))
    identity, mounts = identity_of(pod_spec.get("containers") or ())
    return {
        "name": LOADER,
        "image": settings.loader_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(COMMAND),
        "env": [*identity, *_environment(pipeline, settings, shim, pin)],  # of two with one name the later counts
        **({"resources": resources} if resources else {}),
        "volumeMounts": [{"name": VOLUME, "mountPath": MOUNT_PATH}, *mounts],
        "securityContext": _security_context(pod_spec, receivers),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def check_container(pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    """The loader's image, told the same, that reads the source and writes nothing; raises as `desired_loader` does."""
    return {
        "name": LOADER,
        "image": settings.loader_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(CHECK_COMMAND),
        "env": _environment(pipeline, settings, "off"),
        "resources": settings.loader_resources,
        "securityContext": _HARDENED,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def is_loader_of(container: Object, pipeline: Pipeline) -> bool:
    """Whether we made this init container for the pipeline's present spec; others may have added to it.

    A pod that is copied from a running one brings its loader along, and with it the checkpoint that was meant then.
    """
    values = {entry["name"]: entry.get("value") for entry in container.get("env") or ()}
    try:
        described = json.loads(values.get("PREHEAT_PIPELINE") or "null")
    except (ValueError, RecursionError):
        return False
    present = json.loads(_described(pipeline))
    same = isinstance(described, dict) and all(described.get(k) == present[k] for k in ("name", "namespace", "spec"))
    return same and container.get("command") == list(COMMAND)


def _environment(
    pipeline: Pipeline, settings: Settings, shim: str, pin: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    installed = [{"name": name, "value": _literally(value)} for name, value in settings.loader_environment.items()]
    uid = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}
    return [
        *installed,
        {"name": "PREHEAT_PIPELINE", "value": _described(pipeline, pin)},
        {"name": "PREHEAT_VOLUME", "value": MOUNT_PATH},
        {"name": "PREHEAT_POD_UID", "valueFrom": uid},
        {"name": "PREHEAT_SHIM", "value": shim},
        *_cache(pipeline.spec.get("volume") or {}),
        *_limits(pipeline.spec.get("loader") or {}),
        *_credentials(pipeline.parsed.source),
    ]


def _cache(volume: Object) -> list[dict[str, Any]]:
    cache = volume.get("cache")
    if not cache:
        return []
    limit = {"name": "PREHEAT_CACHE_LIMIT", "value": str(int(parse_quantity(cache["maxSize"])))}
    lifetime = cache.get("podLifetimeSeconds")
    return [limit, {"name": "PREHEAT_POD_LIFETIME", "value": str(lifetime)}] if lifetime else [limit]


def _limits(loader: Object) -> Iterator[dict[str, Any]]:
    if bandwidth := loader.get("bandwidth"):
        yield {"name": "PREHEAT_BANDWIDTH", "value": str(int(parse_quantity(bandwidth)))}
    if deadline := loader.get("deadlineSeconds"):
        yield {"name": "PREHEAT_DEADLINE", "value": str(deadline)}


def _described(pipeline: Pipeline, pin: Mapping[str, str] | None = None) -> str:
    document = {
        "name": pipeline.name,
        "namespace": pipeline.namespace,
        "uid": pipeline.uid,
        "generation": pipeline.generation,
        "spec": to_mapping(pipeline.parsed),
        **({"pin": dict(pin)} if pin else {}),
    }
    text = json.dumps(document, separators=(",", ":"), sort_keys=True)
    if len(text) > SPEC_LIMIT:
        raise CheckpointConfigError(
            f"the spec of {len(text):,} bytes does not fit into the loader's environment",
            remedy=f"Keep it below {SPEC_LIMIT:,}: shorten the lists of names and the parameters of custom stages",
        )
    return _literally(text)


def _literally(text: str) -> str:
    return text.replace("$", "$$")  # Kubernetes would expand $(NAME) and halve $$


def _credentials(source: CheckpointSource) -> list[dict[str, Any]]:
    return [
        {
            "name": each.variable,
            "valueFrom": {"secretKeyRef": {"name": secret, "key": each.key, "optional": not each.required}},
        }
        for secret, each in source.secrets
    ]


def _security_context(pod_spec: Object, receivers: Sequence[Object]) -> dict[str, Any]:
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
