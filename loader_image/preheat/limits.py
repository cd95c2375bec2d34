"""Bounds of parameters, declared beside their types: a constructor checks them, the resource's schema repeats them."""

from __future__ import annotations

import re
from collections.abc import Sized
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from preheat.errors import CheckpointConfigError

# What is refused may hold a password, a signature or a key, and the refusal must not repeat it.
_USER_INFORMATION = re.compile(r"//[^/\s]*@")
_QUERY = re.compile(r"(://[^?]*)\?.*")
_SHOWN = 80


@dataclass(frozen=True)
class Limit:
    """Bounds of a parameter, attached with `Annotated`; lengths count characters of a text, items of all else."""

    max_length: int | None = None
    min_length: int | None = None
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    items: Limit | None = None

    def check(self, where: str, value: Any) -> None:
        """Raise CheckpointConfigError when `value` is outside the bounds; None is always inside."""
        if value is None:
            return
        if isinstance(value, (str, tuple, list, dict)):
            self._check_length(where, value)
        elif isinstance(value, (int, float)):
            self._check_range(where, value)
        if self.pattern and isinstance(value, str) and not re.search(self.pattern, value):
            raise CheckpointConfigError(f"{where}: {_shown(value)!r} does not match {self.pattern}")
        if self.items and isinstance(value, (tuple, list)):
            for position, item in enumerate(value):
                self.items.check(f"{where}[{position}]", item)

    def _check_length(self, where: str, value: Sized) -> None:
        if self.max_length is not None and len(value) > self.max_length:
            raise CheckpointConfigError(f"{where}: {len(value)} is longer than the allowed {self.max_length}")
        if self.min_length is not None and len(value) < self.min_length:
            raise CheckpointConfigError(f"{where}: must not be empty")

    def _check_range(self, where: str, value: float) -> None:
        if self.minimum is not None and value < self.minimum:
            raise CheckpointConfigError(f"{where}: {value} is below the minimum {self.minimum}")
        if self.maximum is not None and value > self.maximum:
            raise CheckpointConfigError(f"{where}: {value} is above the maximum {self.maximum}")


def _shown(text: str) -> str:
    """The first line of a text, without what may be secret in a URL."""
    line = text.lstrip().partition("\n")[0][:_SHOWN]
    return _QUERY.sub(r"\1?***", _USER_INFORMATION.sub("//***@", line))


# The bounds that most parameters share. Kubernetes budgets its validation rules by these lengths.
Name = Annotated[str, Limit(min_length=1, max_length=253)]
SecretName = Annotated[str, Limit(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


@cache
def limits_of(stage_class: type) -> dict[str, Limit]:
    """The declared bounds by field name."""
    hints = get_type_hints(stage_class, include_extras=True)
    found = {name: _limit_in(hints[name]) for name in (field.name for field in fields(stage_class))}
    return {name: limit for name, limit in found.items() if limit is not None}


def _limit_in(hint: Any) -> Limit | None:
    candidates = [hint, *get_args(hint)]  # `Annotated[...] | None` hides the annotation one level down
    for candidate in candidates:
        if get_origin(candidate) is Annotated:
            return next((extra for extra in get_args(candidate)[1:] if isinstance(extra, Limit)), None)
    return None


def check_limits(instance: object) -> None:
    """Raise CheckpointConfigError for a parameter of a dataclass outside its declared bounds."""
    component: type = type(instance)
    for name, limit in limits_of(component).items():
        limit.check(f"{component.__name__}.{name}", getattr(instance, name))
