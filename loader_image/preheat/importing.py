"""Imports the class of a dotted path, under Anemoi's names as well."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from preheat.errors import CheckpointConfigError


def import_class(target: str, where: str) -> Any:
    """The class of a dotted path. Only for pipelines that a user of this very process wrote."""
    module_name, _, class_name = target.rpartition(".")
    try:
        return getattr(_imported(module_name), class_name)
    except (ImportError, ValueError, AttributeError) as error:
        raise CheckpointConfigError(f"{where}: cannot import {target}: {error}") from error


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        from preheat.anemoi import belongs, stand_in  # only a stage that was written after Anemoi's guide needs it

        if not belongs(error.name):
            raise
        stand_in()
        return import_module(name)
