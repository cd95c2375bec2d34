"""A pipeline's configuration as one dataclass, for every library that describes configurations.

A plain dataclass on purpose: it is the type of a field in a pydantic model (pydantic reads the bounds and builds it),
a structured config of Hydra, and needs neither. A pydantic model would serve the first of them alone, and this package
runs inside training processes, which it must not give libraries to import.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from preheat.construction import construct, plain, snake_case
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit, check_limits

log = logging.getLogger(__name__)

#: Settings of a resource that are about a training process and its pod, not about a pipeline that somebody runs.
_OF_THE_TRAINING = frozenset(
    {"volume", "loader", "on_failure", "resume", "upload", "service_account_name", "refresh_seconds"}
)


@dataclass
class CheckpointPipelineConfig:
    """What a CheckpointPipeline is built from. Raises CheckpointConfigError that names the setting."""

    stages: list[Any] = field(default_factory=list)
    """Mappings in either spelling, `{s3: {...}}` or `{_target_: ..., ...}`; they are built by the pipeline."""

    async_execution: bool = True
    """`execute` returns something to await; false: the context itself."""

    continue_on_error: bool = False
    """Go on when a stage fails, unless that leaves the model with its initial weights."""

    cache_dir: str | None = None
    """Folder in which what remote sources gave is kept, checked and converted; None: read anew every time."""

    max_retries: Annotated[int, Limit(minimum=0, maximum=10)] = 3
    """How often a failed request to a source is repeated."""

    timeout: Annotated[float, Limit(minimum=1, maximum=86400)] = 300
    """Seconds without progress after which a source is given up."""

    def __post_init__(self) -> None:
        """Check types and bounds: YAML writes numbers as text more easily than one thinks."""
        for name in ("async_execution", "continue_on_error"):
            if not isinstance(getattr(self, name), bool):
                raise CheckpointConfigError(f"{name}: {getattr(self, name)!r:.80} is neither true nor false")
        for name, kind in (("max_retries", int), ("timeout", (int, float))):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise CheckpointConfigError(f"{name}: {value!r:.80} is not a number")
        if isinstance(self.stages, (str, Mapping)):
            raise CheckpointConfigError(f"stages: {self.stages!r:.80} is not a list")
        check_limits(self)


def configuration_of(config: Any) -> CheckpointPipelineConfig:
    """The configuration in a mapping of any library: its settings alone, a resource, or Anemoi's whole config.

    Raises CheckpointConfigError for a setting that is unknown, naming the nearest known one.
    """
    if isinstance(config, CheckpointPipelineConfig):
        return config
    if not isinstance(config, Mapping):
        raise CheckpointConfigError(f"{config!r:.200} is not a configuration", remedy="Give a mapping with `stages`")
    settings = {snake_case(name): value for name, value in plain(body_of(config)).items() if not name.startswith("_")}
    if settings.get("resume"):
        log.warning("resume is decided where a training's container starts; here the stages alone run")
    settings = {name: value for name, value in settings.items() if name not in _OF_THE_TRAINING}
    if "timeout_seconds" in settings:
        settings["timeout"] = settings.pop("timeout_seconds")
    built: CheckpointPipelineConfig = construct(CheckpointPipelineConfig, settings, "checkpoint pipeline")
    return built


def settings_of(config: CheckpointPipelineConfig) -> dict[str, Any]:
    """The fields by name, not copied any deeper: stages may be objects."""
    return {each.name: getattr(config, each.name) for each in fields(config)}


def body_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What holds `stages`: a resource's `spec`, Anemoi's `training.checkpoint_pipeline`, else the document itself."""
    for path in (("spec",), ("training", "checkpoint_pipeline"), ("checkpoint_pipeline",)):
        inner: Any = document
        for key in path:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping):
            return inner
    return document


def read_document(path: Path) -> dict[str, Any]:
    """The one mapping in a YAML file; raises CheckpointConfigError that names it."""
    try:
        import yaml  # a training process that gives no file needs none
    except ImportError:
        raise CheckpointConfigError(
            f"{path} is YAML, and the package pyyaml is not installed", remedy="Install pyyaml, or give the stages"
        ) from None
    try:
        documents = [found for found in yaml.safe_load_all(path.read_text()) if found]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CheckpointConfigError(f"{path} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise CheckpointConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise CheckpointConfigError(f"{path} must hold one pipeline", remedy="Begin it with `stages:`")
    return documents[0]
