"""From the configurations of four older systems to resources, and to pipelines for use in process.

`migrate` is pure: a document in, a `Migration` out. Reading files is `reading`, writing YAML `writing`; each system has
a module with its table of keys. Comparing what would be selected is `comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preheat.migrate.detection import SYSTEMS, Detected, detected, named
from preheat.migrate.migration import Migration, migrated
from preheat.migrate.places import Answers
from preheat.migrate.settings import Settings

__all__ = ["SYSTEMS", "Answers", "Detected", "Migration", "migrate"]


def migrate(
    document: Mapping[str, Any],
    system: str | None = None,
    answers: Answers | None = None,
    unresolved: frozenset[str] = frozenset(),
) -> tuple[Migration, Detected | None]:
    """What becomes of a configuration, and by which keys its system was known, if it was not given.

    `unresolved` are keys whose interpolation could not be. Raises CheckpointConfigError for an unknown system, and for
    a configuration that may be of several.
    """
    settings = Settings(document)
    found = None if system else detected(settings)
    return migrated(found.system if found else named(str(system)), settings, answers or Answers(), unresolved), found
