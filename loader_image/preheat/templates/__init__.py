"""Ready-made pipelines, each one file: a resource to edit, and the same pipeline in Python and for Hydra.

The resource is the only thing that is written by hand; the other spellings are made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

from preheat.catalog import dotted_path
from preheat.configuration import configuration_of
from preheat.construction import snake_case, suggest
from preheat.errors import CheckpointConfigError
from preheat.spelling import build, spell
from preheat.stage import PipelineStage

_FOLDER = files(__name__)
_WIDTH = 88  # of arguments on one line

_PYTHON = '''"""{about}"""

from preheat import CheckpointPipeline
{imports}


def checkpoint_pipeline() -> CheckpointPipeline:
    """Run it with `.execute(CheckpointContext(model=model))`."""
    return CheckpointPipeline(
        stages=[
{stages}
        ],
        async_execution=False,{settings}
    )
'''


def names() -> list[str]:
    """What there is."""
    found = (each.name for each in _FOLDER.iterdir())
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def resource(name: str) -> str:
    """The CheckpointPipeline of a template, commented, as YAML; an unknown name is answered with the known."""
    if name not in names():
        raise CheckpointConfigError(f"unknown template {name!r:.80}{suggest(name, names())}")
    return _FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def about(name: str) -> str:
    """One sentence."""
    return resource(name).partition("\n")[0].removeprefix("# ")


def in_python(name: str) -> str:
    """A module with the same pipeline as a function."""
    stages, settings = _read(name)
    imports = sorted(f"from {type(stage).__module__} import {type(stage).__name__}" for stage in stages)
    calls = (f"            {_call(stage)}," for stage in stages)
    given = "".join(f"\n        {key}={_literal(value)}," for key, value in settings.items())
    return _PYTHON.format(about=about(name), imports="\n".join(imports), stages="\n".join(calls), settings=given)


def for_hydra(name: str) -> str:
    """A file of a Hydra config group with the same pipeline."""
    import yaml

    stages, settings = _read(name)
    written = {
        "_target_": "preheat.CheckpointPipeline",
        "_recursive_": False,
        "stages": [{"_target_": dotted_path(type(stage)), **_parameters(stage)} for stage in stages],
        "async_execution": False,
        **settings,
    }
    return f"# @package training.checkpoint_pipeline\n# {about(name)}\n{yaml.safe_dump(written, sort_keys=False)}"


def _read(name: str) -> tuple[list[PipelineStage], dict[str, Any]]:
    """The stages, and the settings that are not at their default."""
    import yaml

    config = configuration_of(yaml.safe_load(resource(name)))
    settings = {"max_retries": (config.max_retries, 3), "timeout": (config.timeout, 300)}
    changed = {key: value for key, (value, default) in settings.items() if value != default}
    return [build(stage) for stage in config.stages], changed


def _parameters(stage: PipelineStage) -> Mapping[str, Any]:
    [parameters] = spell(stage).values()
    return {snake_case(key): value for key, value in parameters.items()}


def _call(stage: PipelineStage) -> str:
    arguments = [f"{key}={_literal(value)}" for key, value in _parameters(stage).items()]
    apart = "".join(f"\n                {argument}," for argument in arguments) + "\n            "
    together = ", ".join(arguments)
    return f"{type(stage).__name__}({apart if len(together) > _WIDTH else together})"


def _literal(value: Any) -> str:
    """Python's spelling of a plain value, with the quotes that formatters prefer."""
    if isinstance(value, str):
        quoted = repr(value)
        return quoted if '"' in value or "'" in value else f'"{quoted[1:-1]}"'
    if isinstance(value, Mapping):
        return f"{{{_joined(f'{_literal(key)}: {_literal(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{_joined(map(_literal, value))}]"
    return repr(value)


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(parts)
