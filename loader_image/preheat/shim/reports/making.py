"""Reports from what a run recorded in its context, or from the failure that it went on without a checkpoint for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from preheat.bundle.manifest import Manifest
from preheat.context import CheckpointContext
from preheat.errors import CheckpointError
from preheat.paths import some
from preheat.resume.resumption import Resumption
from preheat.shim.reports.report import Report, rank
from preheat.shim.reports.tree import NO_CHECKPOINT

#: The strategy of a process that goes on without a checkpoint.
NONE = "none"


def report_of(
    context: CheckpointContext,
    manifest: Manifest | None,
    seconds: Mapping[str, float],
    resumption: Resumption | None = None,
) -> Report:
    """The report of a run, from what its stages recorded in the context."""
    from preheat.strategies.sizes import sizes_of  # torch; a report is also read where there is none

    said, data = context.metadata, context.checkpoint_data
    blob = getattr(data, "blob", None)
    return Report(
        pipeline=_pipeline(manifest, resumption),
        source=manifest.source.uri if manifest else str(context.checkpoint_path or ""),
        version=manifest.source.version if manifest else getattr(blob, "version", ""),
        strategy=str(said.get("loading_strategy", "custom")),
        loaded=tuple(said.get("transferred_params", ())),
        skipped=said.get("skipped_params", {}),
        left_initial=said.get("initial_params", {}),
        casts=said.get("dtype_casts", {}),
        warnings=tuple(dict.fromkeys((*(manifest.warnings if manifest else ()), *said.get("warnings", ())))),
        resized=said.get("resized_params", {}),
        added=tuple(said.get("added_params", ())),
        modifiers=tuple(said.get("modifiers_applied", ())),
        size=int(said.get("loaded_bytes", 0)),
        seconds={**seconds, **_phases(said, context.modifiers)},
        rank=context.ranks.rank if context.ranks else rank(),
        sizes=sizes_of(context.model) or said.get("model_sizes", {}),
        skipped_sizes=said.get("skipped_sizes", {}),
        notes=(
            *([resumption.line()] if resumption else ()),
            *said.get("loading_notes", ()),
            *_failed_stages(said),
            *_training_notes(said),
        ),
        read=getattr(blob, "fetched", 0),
        partial=int(said.get("partial_params", 0)),
        ranks=context.ranks.world if context.ranks else 1,
        resumed=_resumed(said),
        merged=tuple({"uri": each.uri, "version": each.version} for each in getattr(data, "merged", ())),
        origins=said.get("origins", {}),
        resume=resumption.said() if resumption else {},
        state=said.get("training_state", {}),
    )


def failure_report(error: CheckpointError, pipeline: str, model: Any, ranks: int) -> Report:
    """The report of a process that trains without a checkpoint; `model` is None where none is at hand."""
    sizes: Mapping[str, Any] = {}
    if model is not None:
        from preheat.strategies.sizes import sizes_of  # torch

        sizes = sizes_of(model)
    return Report(
        *(pipeline, "", "", NONE, (), {}, dict.fromkeys(sizes, NO_CHECKPOINT), {}, (), 0, {}),
        rank=rank(),
        sizes=sizes,
        ranks=ranks,
        failure={"reason": error.reason, "message": str(error.args[0]), "remedy": error.remedy},
    )


def _pipeline(manifest: Manifest | None, resumption: Resumption | None) -> str:
    """Its name; the manifest of a checkpoint that a training saved knows none."""
    if resumption:
        return resumption.pipeline
    return manifest.pipeline.name if manifest else ""


def _phases(said: Mapping[str, Any], modifiers: Iterable[object]) -> dict[str, float]:
    """Seconds of what the stages did."""
    names = {type(modifier).__name__ for modifier in modifiers}
    stages = said.get("stage_seconds", {}).items()
    modify = sum(seconds for marker, seconds in stages if marker.split("_", 2)[2] in names)
    return {"match": said.get("match_seconds", 0.0), "load": said.get("load_seconds", 0.0), "modify": modify}


def _resumed(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a warm start told of the training, which objects it restored, and what it could not make."""
    if "restored" not in said:
        return {}
    progress = {key: said[key] for key in ("epoch", "global_step") if key in said}
    return {**progress, "restored": list(said["restored"]), "notMade": dict(said.get("not_made", {}))}


def _failed_stages(said: Mapping[str, Any]) -> Iterable[str]:
    """Stages that failed where the pipeline's continueOnError goes on."""
    for name, outcome in said.items():
        if name.startswith("stage_") and str(outcome).startswith("failed"):
            yield f"{name.replace('_', ' ', 2)} {outcome}"


def _training_notes(said: Mapping[str, Any]) -> Iterable[str]:
    """What a warm start restored, and what it could not make."""
    if restored := said.get("restored"):
        yield f"restored {', '.join(restored)}"
    if not_made := said.get("not_made"):
        yield f"not made of the state: {some(f'{path} ({name})' for path, name in not_made.items())}"
