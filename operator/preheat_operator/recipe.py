"""What an injection takes from the pipeline alone: the same for every pod, whatever its shape.

`injection` adds what follows from the pod. A MutatingAdmissionPolicy reads resources and can run none of this: where it
injects, the controller keeps the recipe in the resource's status.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from preheat.errors import CheckpointConfigError
from preheat.spec import to_mapping
from preheat.spelling import build
from preheat.stage import CheckpointSource, SecretVariable
from preheat_operator.api import Pipeline
from preheat_operator.loader_resources import beside, exactly, merged
from preheat_operator.mounts import cleaned
from preheat_operator.quantity import parse_quantity
from preheat_operator.room import size_limit
from preheat_operator.run_volume import run_folder
from preheat_operator.settings import Settings

#: A variable of the environment can hold 128 KiB on Linux; the rest is for the pin and for doubled dollars.
SPEC_LIMIT = 96 * 1024

Object = Mapping[str, Any]


@dataclass(frozen=True)
class UploadRecipe:
    """What the upload of every pod of a pipeline is told and allowed."""

    settings: str  # its variable PREHEAT_UPLOAD
    environment: list[dict[str, Any]]  # its variables that not every pipeline has
    path: str  # what is sent, on a volume of the pod
    resources: dict[str, dict[str, str]]  # beside the pod's own containers
    exact: dict[str, str]  # the same in a Guaranteed pod: requests that are limits


@dataclass(frozen=True)
class Recipe:
    """What the loader of every pod of a pipeline is told and allowed."""

    pipeline: str  # its variable PREHEAT_PIPELINE
    environment: list[dict[str, Any]]  # its variables that not every pipeline has
    resources: dict[str, dict[str, str]]  # at most: what the pod's own containers use may lower them
    volume: dict[str, Any]  # without its name
    run: str = ""  # folder of the run that is resumed, on a volume of the training
    upload: UploadRecipe | None = None

    def to_status(self) -> dict[str, Any]:
        """As the resource's status keeps it."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None)}


def recipe_of(pipeline: Pipeline, settings: Settings, pin: Mapping[str, str] | None = None) -> Recipe:
    """The recipe for the version of the source that `pin` names; raises CheckpointConfigError as `described` does."""
    loader = pipeline.spec.get("loader") or {}
    return Recipe(
        pipeline=described(pipeline, pin),
        environment=[
            *_cache(pipeline.spec.get("volume") or {}),
            *_limits(loader),
            *_deaths(pipeline),
            *credentials(_secrets(pipeline)),
        ],
        resources={
            kind: {name: str(amount) for name, amount in amounts.items()}
            for kind, amounts in merged(settings.loader_resources, loader.get("resources")).items()
        },
        volume=volume_of(pipeline, pin),
        run=run_folder(pipeline),
        upload=upload_recipe_of(pipeline, settings) if pipeline.spec.get("upload") else None,
    )


def upload_recipe_of(pipeline: Pipeline, settings: Settings) -> UploadRecipe:
    """The recipe of the upload that a pipeline asks for."""
    upload = pipeline.spec["upload"]
    amounts, to = merged(settings.loader_resources, upload.get("resources")), build(upload["to"], "upload.to")
    assert isinstance(to, CheckpointSource)  # noqa: S101 - the resource's schema knows no other
    return UploadRecipe(
        settings=upload_settings(pipeline),
        environment=[*_bandwidth(upload), *credentials(to.secrets)],
        path=cleaned(upload["path"]),
        resources=beside(amounts),
        exact=exactly(amounts),
    )


def upload_settings(pipeline: Pipeline) -> str:
    """What the upload is told: what goes where, and how it is tried."""
    upload = pipeline.spec["upload"]
    told = {key: upload[key] for key in ("path", "to", "verify", "settleSeconds") if key in upload}
    told |= {"maxRetries": pipeline.parsed.max_retries, "timeoutSeconds": pipeline.parsed.timeout_seconds}
    return literally(_compact(told))


def volume_of(pipeline: Pipeline, pin: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The volume that a pipeline wants; an emptyDir without a limit of its own is bounded by what `pin` takes.

    Where sources differ from pod to pod, or a run is resumed, a pod may get another checkpoint than was measured.
    """
    chosen = pipeline.spec.get("volume") or {}
    if claim := chosen.get("persistentVolumeClaim"):
        return {"persistentVolumeClaim": dict(claim)}
    empty = {key: str(value) for key, value in (chosen.get("emptyDir") or {}).items() if value is not None}
    size = (pin or {}).get("outputBytes")
    measured = pipeline.parsed.resume is None and pipeline.parsed.source.same_everywhere
    if size and "sizeLimit" not in empty and measured:
        empty["sizeLimit"] = size_limit(size, empty.get("medium", ""))
    return {"emptyDir": empty}


def described(pipeline: Pipeline, pin: Mapping[str, str] | None = None) -> str:
    """The pipeline as its loader reads it; raises CheckpointConfigError when it does not fit into its environment."""
    spec = to_mapping(pipeline.parsed)
    if (size := len(_compact(spec))) > SPEC_LIMIT:
        raise CheckpointConfigError(
            f"the spec of {size:,} bytes does not fit into the loader's environment",
            remedy=f"Keep it below {SPEC_LIMIT:,}: shorten the lists of names and the parameters of custom stages",
        )
    document = {
        "name": pipeline.name,
        "namespace": pipeline.namespace,
        "uid": pipeline.uid,
        "generation": pipeline.generation,
        "spec": spec,
        **({"pin": dict(pin)} if pin else {}),
    }
    return literally(_compact(document))


def read_described(text: str) -> Object:
    """What `described` has written: name, namespace, uid, generation, spec and pin; empty when it has not."""
    try:
        document = json.loads(text.replace("$$", "$"))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, Mapping) else {}


def literally(text: str) -> str:
    """The value of a variable that shall hold this text."""
    return text.replace("$", "$$")  # Kubernetes would expand $(NAME) and halve $$


def _compact(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"), sort_keys=True)


def _cache(volume: Object) -> list[dict[str, Any]]:
    cache = volume.get("cache")
    if not cache:
        return []
    limit = {"name": "PREHEAT_CACHE_LIMIT", "value": str(int(parse_quantity(cache["maxSize"])))}
    lifetime = cache.get("podLifetimeSeconds")
    return [limit, {"name": "PREHEAT_POD_LIFETIME", "value": str(lifetime)}] if lifetime else [limit]


def _bandwidth(container: Object) -> Iterator[dict[str, Any]]:
    if bandwidth := container.get("bandwidth"):
        yield {"name": "PREHEAT_BANDWIDTH", "value": str(int(parse_quantity(bandwidth)))}


def _limits(loader: Object) -> Iterator[dict[str, Any]]:
    yield from _bandwidth(loader)
    if deadline := loader.get("deadlineSeconds"):
        yield {"name": "PREHEAT_DEADLINE", "value": str(deadline)}


def _deaths(pipeline: Pipeline) -> list[dict[str, Any]]:
    return [{"name": "PREHEAT_DEATHS", "value": literally(pipeline.deaths)}] if pipeline.deaths else []


def _secrets(pipeline: Pipeline) -> Iterable[tuple[str, SecretVariable]]:
    resume = pipeline.parsed.resume
    return dict.fromkeys((*pipeline.parsed.source.secrets, *(resume.from_.secrets if resume else ())))


def credentials(secrets: Iterable[tuple[str, SecretVariable]]) -> list[dict[str, Any]]:
    """Variables from Secrets, by the names of these: their values stay where they are."""
    return [
        {
            "name": each.variable,
            "valueFrom": {"secretKeyRef": {"name": secret, "key": each.key, "optional": not each.required}},
        }
        for secret, each in secrets
    ]
