"""Keeps what remote sources gave in a folder of this machine: a bundle, made once by the loader's own code.

Only the front of a pipeline is replaced: its source with the checks and the conversion right behind it. What follows
sees the checkpoint as a training pod does: its weights, its plain values, and for a warm start its training state.
A local source is read where it is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from preheat.blob import Patience
from preheat.context import CheckpointContext
from preheat.convert import Convert
from preheat.spec import PipelineSpec
from preheat.stage import CheckpointSource, LoadingStrategy, PipelineStage
from preheat.verify import Verify

# Makers are told apart by their process; two pipelines of one process make one bundle after the other.
_making = threading.Lock()


def with_cache(stages: Sequence[PipelineStage], folder: Path | None, patience: Patience) -> list[PipelineStage]:
    """`stages`, with those that the cache answers for replaced one by one."""
    front = _front(stages)
    if folder is None or not front:
        return list(stages)
    # The bundle depends on a strategy only where that takes more than the raw weights, or others.
    strategies = (stage for stage in stages if isinstance(stage, LoadingStrategy))
    loaders = (stage for stage in strategies if stage.takes_training_state or stage.ema)
    spec = PipelineSpec((*front, *loaders), False, patience.max_retries, patience.timeout_seconds)
    return [Cached(spec, folder), *(Passed() for _ in front[1:]), *stages[len(front) :]]


def _front(stages: Sequence[PipelineStage]) -> list[PipelineStage]:
    """The source and what is right behind it; nothing when there is none, or one that is read where it is."""
    if not stages or not isinstance(stages[0], CheckpointSource):
        return []
    if all(place.in_pod for place in stages[0].places):
        return []
    return [stages[0], *takewhile(lambda stage: isinstance(stage, (Verify, Convert)), stages[1:])]


class Cached(PipelineStage):
    """Gives the checkpoint of a bundle, which is made first where there is none of this version and conversion."""

    def __init__(self, spec: PipelineSpec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Find or make the bundle; raises what the source, the checks and the folder raise."""
        return await asyncio.to_thread(self._open, context)

    def _open(self, context: CheckpointContext) -> CheckpointContext:
        from preheat.bundle.data import format_name, open_bundle
        from preheat.bundle.lease import owner_here
        from preheat.bundle.store import Store
        from preheat.prepare import prepare

        with _making:
            outcome = prepare(self.spec, Store(self.folder), owner_here())
        source, data = outcome.manifest.source, open_bundle(outcome.folder)
        context.source, context.checkpoint_data, context.checkpoint_path = self.spec.source, data, source.uri
        context.checkpoint_format = format_name(replace(data.index, format=source.format))
        context.update_metadata(
            source_uri=source.uri,
            source_version=source.version,
            source_size_bytes=source.size_bytes,
            bundle=str(outcome.folder),
            bundle_reused=outcome.reused,
        )
        context.add_warnings(outcome.manifest.warnings)
        return context


class Passed(PipelineStage):
    """Stands for a check or a conversion that the bundle has behind it."""

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Nothing is left to do."""
        return context
