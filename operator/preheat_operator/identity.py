"""The cloud identity of a pod's ServiceAccount, as the webhooks of the clouds have put it into the pod's containers.

They run before ours where their names come first, and where they are not invoked again they never see the loader. What
they add names a token's file; nothing else of the containers' environment is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]

_AMAZON = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_STS_REGIONAL_ENDPOINTS")
#: The variable that names the token's file, and those that belong to it.
_IDENTITIES: Mapping[str, tuple[str, ...]] = {
    "AWS_WEB_IDENTITY_TOKEN_FILE": ("AWS_ROLE_ARN", *_AMAZON),
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": ("AWS_CONTAINER_CREDENTIALS_FULL_URI", *_AMAZON),
    "AZURE_FEDERATED_TOKEN_FILE": ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_AUTHORITY_HOST"),
}


def identity_of(containers: Sequence[Object]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Environment and mounts that give a container the identity that these have; both empty when they have none."""
    environment: dict[str, str] = {}
    mounts: dict[str, dict[str, Any]] = {}
    for file, others in _IDENTITIES.items():
        for container in containers:
            values = {entry["name"]: entry.get("value") for entry in container.get("env") or ()}
            if mount := _mount_of(values.get(file), container):
                found = {name: values[name] for name in (file, *others) if values.get(name)}
                environment = {**found, **environment}
                mounts.setdefault(mount["mountPath"], {**mount, "readOnly": True})
                break
    return [{"name": name, "value": value} for name, value in environment.items()], list(mounts.values())


def _mount_of(file: str | None, container: Object) -> dict[str, Any] | None:
    """The mount that the file is in: of several on its path, the innermost."""
    mounts = container.get("volumeMounts") or ()
    holding = [each for each in mounts if file and file.startswith(each["mountPath"].rstrip("/") + "/")]
    return dict(max(holding, key=lambda each: len(each["mountPath"]))) if holding else None
