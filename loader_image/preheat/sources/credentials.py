"""Whose credentials several sources of one pipeline are read with.

Sources of one kind find theirs in the same variables of the loader, so they have to mean the same Secret.
"""

from __future__ import annotations

from collections.abc import Iterable

from preheat.errors import CheckpointConfigError
from preheat.stage import CheckpointSource


def check_credentials(sources: Iterable[CheckpointSource]) -> None:
    """Raise CheckpointConfigError for two sources, of one place each, that would take each other's credentials."""
    owners: dict[str, CheckpointSource] = {}
    for source in sources:
        if getattr(source, "anonymous", False):
            continue
        for each in source.secret_variables:
            first = owners.setdefault(each.variable, source)
            if _secret_of(first) != _secret_of(source):
                raise CheckpointConfigError(
                    f"{first.uri} is to be read with {_named(first)}, {source.uri} with {_named(source)}, and both "
                    f"would find their credentials in {each.variable}",
                    remedy="Name the same Secret in both; where none is needed, set anonymous: true",
                )


def _secret_of(source: CheckpointSource) -> str | None:
    return getattr(source, "secret_ref", None)


def _named(source: CheckpointSource) -> str:
    secret = _secret_of(source)
    return f"Secret {secret!r}" if secret else "no Secret"
