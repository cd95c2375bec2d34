"""What the installation decides, read once from the environment; a value that cannot be meant is refused at the start.

Names that Preheat does not know are left alone: Kubernetes itself puts variables of Services into containers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, cast, get_args

from preheat_operator.quantity import parse_quantity

Certificates = Literal["own", "given"]
InjectionMode = Literal["webhook", "policy"]
LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
Resources = Mapping[str, Mapping[str, str]]
Environment = Mapping[str, str]

_PREFIX = "PREHEAT_"
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_REQUIRED = ("namespace", "loader_image")


def _default_loader_resources() -> Resources:
    return {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}


class SettingsError(ValueError):
    """One or more variables cannot be used; the message names each of them."""


@dataclass(frozen=True)
class Settings:
    """The options of both processes; every field is the variable PREHEAT_<FIELD>."""

    namespace: str  # the operator's own
    loader_image: str
    service_name: str = "preheat-webhook"
    secret_name: str = "preheat-webhook-certificate"  # noqa: S105 the name of a Secret, not its content
    webhook_configuration_name: str = "preheat"
    certificates: Certificates = "own"  # made by the webhook, or by somebody else
    injection: InjectionMode = "webhook"  # who adds the loader to pods
    port: int = 8443
    health_port: int = 8080
    image_pull_policy: PullPolicy = "IfNotPresent"
    loader_resources: Resources = field(default_factory=_default_loader_resources, hash=False)
    loader_environment: Environment = field(default_factory=dict, hash=False)
    check: bool = True  # look at sources before pods ask for them
    progress: bool = True  # ask running loaders how far they are
    stall_seconds: int = 60  # without a byte, after which a loader is said to stand still
    log_level: LogLevel = "info"
    log_format: LogFormat = "json"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The settings of this process; raises SettingsError that lists everything wrong at once."""
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for name in (f.name for f in fields(cls)):
            text = environment.get(_PREFIX + name.upper(), "").strip()
            if not text:
                continue
            try:
                values[name] = _READERS.get(name, str)(text)
            except ValueError as error:
                wrong.append(f"{_PREFIX}{name.upper()}={text!r} {error}")
        wrong += [f"{_PREFIX}{name.upper()} is not set" for name in _REQUIRED if not values.get(name)]
        if wrong:
            raise SettingsError("the environment does not describe an installation: " + "; ".join(wrong))
        return cls(**values)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ValueError("is not a port from 1 to 65535")
    return int(text)


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")
        return text

    return read


def _resources(text: str) -> Resources:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(document, dict) or not set(document) <= {"requests", "limits"}:
        raise ValueError('is not an object with the keys "requests" and "limits"')
    if not all(isinstance(amounts, dict) for amounts in document.values()):
        raise ValueError("does not map resource names to amounts")
    if others := sorted({name for amounts in document.values() for name in amounts} - {"cpu", "memory"}):
        raise ValueError(f"names {', '.join(others)}: a loader has cpu and memory of its own, and nothing else")
    return {kind: {name: _amount(amount) for name, amount in amounts.items()} for kind, amounts in document.items()}


def _amount(value: object) -> str:
    parse_quantity(text := str(value))
    return text


def _environment(text: str) -> Environment:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise ValueError("does not map names to strings")
    if wrong := [name for name in document if not _VARIABLE.match(name) or name.startswith(_PREFIX)]:
        raise ValueError(f"names {', '.join(wrong)}: not a variable, or one that Preheat sets itself")
    return document


def _switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("is not true or false")
    return text == "true"


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 86_400:
        raise ValueError("is not a number of seconds from 1 to 86400")
    return int(text)


_READERS: dict[str, Callable[[str], Any]] = {
    "progress": _switch,
    "stall_seconds": _seconds,
    "certificates": _one_of(cast("tuple[str, ...]", get_args(Certificates))),
    "check": _switch,
    "injection": _one_of(cast("tuple[str, ...]", get_args(InjectionMode))),
    "port": _port,
    "health_port": _port,
    "image_pull_policy": _one_of(cast("tuple[str, ...]", get_args(PullPolicy))),
    "loader_resources": _resources,
    "loader_environment": _environment,
    "log_level": _one_of(cast("tuple[str, ...]", get_args(LogLevel))),
    "log_format": _one_of(cast("tuple[str, ...]", get_args(LogFormat))),
}
