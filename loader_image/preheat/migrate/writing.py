"""Writes what a migration made as YAML, each line with the legacy keys that it comes from.

ruamel.yaml keeps comments beside the values that they are about; PyYAML has none.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any

from preheat.catalog import ComponentCatalog, dotted_path
from preheat.construction import snake_case
from preheat.errors import CheckpointConfigError
from preheat.migrate.migration import IN_PROCESS, Migration, name_of
from preheat.migrate.traced import Remark, Traced, traces, untraced

_COLUMN = 48  # of comments, where the line is not longer
_WIDTH = 118
_IN_PROCESS_SETTINGS = {
    "continueOnError": "continue_on_error", "maxRetries": "max_retries", "timeoutSeconds": "timeout",
}  # fmt: skip
_RESUMES = Remark(("resume",), "is what a loader decides before the process begins: in process it is `preheat.resume`")


def resource_text(migration: Migration, origin: str) -> str:
    """The resource as a file for `kubectl apply`."""
    return _text(migration.resource, f"From {origin}, a configuration of {migration.system}.", migration.remarks)


def pipeline_text(migration: Migration, origin: str) -> str:
    """The same pipeline for a training process, as a file of a Hydra config group."""
    settings = (migration.resource or {}).get("spec", {})
    written = {
        "_target_": "preheat.CheckpointPipeline",
        "_recursive_": False,
        "stages": [_in_process(stage) for stage in migration.stages],
        "async_execution": False,
        **{name: settings[key] for key, name in _IN_PROCESS_SETTINGS.items() if key in settings},
    }
    head = f"@package training.checkpoint_pipeline\nFrom {origin}, a configuration of {migration.system}."
    resumes = (_RESUMES,) if "resume" in settings else ()
    return _text(written, head, (*resumes, *migration.remarks))


def _in_process(stage: Any) -> Any:
    if name_of(stage) == IN_PROCESS:
        return stage
    inner = stage.value if isinstance(stage, Traced) else stage
    [(name, given)] = inner.items()
    target = dotted_path(ComponentCatalog.get(name))
    keys = given.keys if isinstance(given, Traced) else ()
    parameters = given.value if isinstance(given, Traced) else given
    return {"_target_": Traced(target, keys), **{snake_case(key): value for key, value in parameters.items()}}


def _text(document: Any, head: str, remarks: Iterable[Remark]) -> str:
    try:
        from ruamel.yaml import YAML
    except ImportError:
        raise CheckpointConfigError(
            "YAML with comments is written by ruamel.yaml, which is not installed",
            remedy='Install it with pip install "preheat[migrate]"',
        ) from None
    yaml = YAML()
    yaml.indent(mapping=2, sequence=2, offset=0)
    yaml.width = 4096  # a folded pattern cannot be read
    node = _node(document)
    node.yaml_set_start_comment(head)
    out = StringIO()
    yaml.dump(node, out)
    return out.getvalue() + said(remarks)


def said(remarks: Iterable[Remark], mark: str = "# ") -> str:
    """The remarks, as comments or without the mark."""
    lines = ["", "What is not in this file, and what to do:"]
    for remark in remarks:
        lines += textwrap.wrap(
            f"- {shown(remark.keys)}: {remark.text}",
            _WIDTH,
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "".join(f"{mark}{line}".rstrip() + "\n" for line in lines) if len(lines) > 2 else ""


def _node(tree: Any) -> Any:
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(tree, Traced):
        return _node(tree.value)
    if isinstance(tree, Mapping):
        mapping = CommentedMap()
        for name, value in tree.items():
            mapping[name] = _node(value)
            _comment(mapping, name, value)
        if not mapping:
            mapping.fa.set_flow_style()
        return mapping
    if isinstance(tree, (list, tuple)):
        sequence = CommentedSeq(_node(item) for item in tree)
        for position, item in enumerate(tree):
            if isinstance(untraced(item), Mapping):
                _comment(sequence[position], next(iter(untraced(item))), item)
            else:
                _comment(sequence, position, item)
        return sequence
    return str(tree) if isinstance(tree, str) else tree


def _comment(collection: Any, place: Any, value: Any) -> None:
    if isinstance(value, Traced) and not _said_below(value) and place not in collection.ca.items:
        collection.yaml_add_eol_comment(shown(value.keys), place, column=_COLUMN)


def _said_below(value: Traced) -> bool:
    """Whether the lines below say all that this one would."""
    below = {key for each in traces(value.value) for key in each.keys}
    return all(any(other == key or other.startswith((f"{key}.", f"{key}[")) for other in below) for key in value.keys)


def shown(keys: Iterable[str]) -> str:
    """The keys, those of one parent together: `EXPERIMENT.{PROJECT, NAME}`."""
    families: dict[str, list[str]] = {}
    for key in keys:
        parent, _, name = key.rpartition(".")
        families.setdefault(parent, []).append(name)
    return ", ".join(_family(parent, names) for parent, names in families.items())


def _family(parent: str, names: list[str]) -> str:
    inner = names[0] if len(names) == 1 else f"{{{', '.join(names)}}}"
    return f"{parent}.{inner}" if parent else ", ".join(names)
