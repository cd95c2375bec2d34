"""What the API server checks before anybody sees an object; one in a file has not been checked yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from preheat.errors import CheckpointError
from preheat_operator.plugin.pod_templates import pod_templates
from preheat_operator.quantity import parse_quantity


def _quantity(amount: int | float | str) -> int | float | str:
    parse_quantity(amount)
    return amount


Amounts = dict[str, Annotated[int | float | str, AfterValidator(_quantity)]]
Object = Mapping[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", alias_generator=to_camel)


class _Metadata(_Part):
    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Named(_Part):
    name: str


class _Variable(_Named):
    value: str | None = None


class _Mount(_Named):
    mount_path: str


class _Resources(_Part):
    requests: Amounts | None = None
    limits: Amounts | None = None


class _Container(_Named):
    env: list[_Variable] | None = None
    volume_mounts: list[_Mount] | None = None
    resources: _Resources | None = None
    security_context: Object | None = None


class _PodSpec(_Part):
    containers: Annotated[list[_Container], Field(min_length=1)]
    init_containers: list[_Container] | None = None
    volumes: list[_Named] | None = None
    resources: _Resources | None = None
    security_context: Object | None = None
    node_selector: dict[str, str] | None = None
    os: _Named | None = None


class _Pod(_Part):
    metadata: _Metadata | None = None
    spec: _PodSpec


class _Object(_Part):
    metadata: _Metadata | None = None


class UnusableError(CheckpointError):
    """What was given is no object, or none that can be explained or rendered."""

    reason = "Unusable"
    exit_code = 2


def check_shape(document: Object, where: str) -> None:
    """Raise UnusableError that says what of an object, or of the pods in it, no API server would take."""
    _check(_Object, document, where)
    for template in pod_templates(dict(document)):
        _check(_Pod, template.pod, f"{where}: {template.path}" if template.path else where)


def _check(shape: type[BaseModel], value: Object, where: str) -> None:
    try:
        shape.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).lstrip(".")
        raise UnusableError(f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}") from error
