"""What every strategy that loads by name does: match, check, fill, and say what happened."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from preheat.bundle.data import CheckpointData
from preheat.checks import Checks, Findings
from preheat.context import CheckpointContext
from preheat.errors import TOUCHED, CheckpointError, CheckpointLoadError
from preheat.strategies.bridging import Bridges, bridge, computed
from preheat.strategies.claims import claimed, left_to
from preheat.strategies.collector import collector_paused
from preheat.strategies.filling.checking import check_finite
from preheat.strategies.filling.shards import Target, target_of
from preheat.strategies.flattened import gathered
from preheat.strategies.leaving import BUFFER, COMPUTED, Left, among, keeping, leave, resetting
from preheat.strategies.mapped import MappedStrategy, ResizingStrategy
from preheat.strategies.matching import Match, Tolerance, check, match
from preheat.strategies.memory import Needed, needed, provide
from preheat.strategies.naming import Named, named
from preheat.strategies.resizing import fill_bridged
from preheat.strategies.sizes import sizes_in, sizes_of_tensors
from preheat.strategies.targets import buffers_of, entries_of, memory_key, tensors_of
from preheat.strategies.weights import Weights, open_weights

log = logging.getLogger(__name__)


def load_matching(
    context: CheckpointContext,
    strategy: str,
    tolerance: Tolerance,
    mapping: MappedStrategy,
    reset: tuple[str, ...] = (),
) -> CheckpointContext:
    """Fill the model with the weights that fit as `mapping` takes them, except the layers that `reset` names.

    Raises before the model is touched, or says that it was.
    """
    context.validate_for_stage(strategy, ["model", "checkpoint_data"])
    checks = context.checks or Checks()
    findings = Findings(checks.warn_only)
    began = perf_counter()
    with collector_paused(), gathered(context):
        with context.together("match") as facts:
            fit = _fit(context, tolerance, mapping, reset)
            fit.weights.check(fit.found.pairs, checks, findings)
            facts.update(context.ranks.opened(context.checkpoint_data) if context.ranks else {})
        started = perf_counter()
        with touching():
            targets = _targets(fit)
            log.debug("filling %d tensors on %s", len(targets), _devices(targets))
            size = fill_bridged(fit.weights, targets, fit.bridges.by_name)
            if checks.finite:
                check_finite({name: target.tensor for name, target in targets.items()}, findings)
    context.add_warnings(findings.warnings)
    context.model.weights_initialized = True
    context.optimizer = context.scheduler = None  # they start fresh
    context.update_metadata(
        loading_strategy=strategy,
        loaded_bytes=size,
        match_seconds=started - began,
        load_seconds=perf_counter() - started,
        partial_params=sum(target.region is not None for target in targets.values()),
        origins=_origins(context.checkpoint_data, fit),
        **_facts(fit),
    )
    return context


def _facts(fit: Fit) -> dict[str, Any]:
    """What reports tell of names, sizes and types."""
    return {
        "transferred_params": list(fit.found.loaded),
        "skipped_params": fit.skipped,
        "skipped_sizes": sizes_in({**fit.taken.entries, **fit.weights.entries}, fit.skipped),
        "initial_params": {**fit.found.initial, **fit.left.of_model},
        "dtype_casts": dict(fit.found.casts),
        "resized_params": dict(fit.found.bridged),
        "model_sizes": sizes_of_tensors(fit.tensors),
        "loading_notes": [*fit.taken.notes, *fit.needed.notes(), *fit.named.notes, *fit.bridges.notes],
    }


@dataclass(frozen=True)
class Fit:
    """What goes where, decided before anything is touched."""

    tensors: Mapping[str, torch.Tensor]  # of the model
    taken: Weights  # all of the checkpoint's, under the names that they have there
    weights: Weights  # those that are matched, under the names by which they are
    named: Named
    left: Left
    bridges: Bridges
    found: Match
    needed: Needed
    called: Mapping[str, str]  # name in the checkpoint -> name by which it is matched

    @property
    def skipped(self) -> dict[str, str]:
        """Why each weight of the checkpoint that is not loaded is not."""
        return {**self.found.skipped, **self.left.of_checkpoint, **self.named.left}


def _fit(context: CheckpointContext, tolerance: Tolerance, mapping: MappedStrategy, reset: tuple[str, ...]) -> Fit:
    assert context.checkpoint_data is not None  # noqa: S101 - for the type checker; the caller has validated it
    tensors, taken = tensors_of(context.model), open_weights(context.checkpoint_data, mapping.ema)
    names = named(taken.entries, tensors, mapping)
    claim = claimed(context, names.names.values(), tensors)
    context.weights = taken.called(names.names)
    called = {old: claim.renamed.get(name, name) for old, name in names.names.items()}
    weights = taken.called(called)
    model = entries_of(tensors)
    buffers = () if mapping.buffers else buffers_of(context.model, tensors)
    whys = resetting(reset, tensors), keeping(mapping, tensors), among(buffers, BUFFER), left_to(claim)
    own = computed(weights.entries, model) if isinstance(mapping, ResizingStrategy) and mapping.interpolate else ()
    left = leave(weights.entries, model, (*whys, among(own, COMPUTED)))
    bridges = _bridges(mapping, left)
    found = match(left.checkpoint, left.model, bridges.by_name)
    check(found, left.checkpoint, left.model, tolerance)
    for name in found.pairs:
        target_of(name, tensors[name])  # raises for what cannot be filled
    need = needed(context.model, _filled(tensors, found, bridges), context.device)
    return Fit(tensors, taken, weights, names, left, bridges, found, need, called)


def _bridges(mapping: MappedStrategy, left: Left) -> Bridges:
    if not isinstance(mapping, ResizingStrategy):
        return Bridges()
    return bridge(type(mapping).__name__, left.checkpoint, left.model, mapping.interpolate, mapping.overlap)


def _filled(tensors: Mapping[str, torch.Tensor], found: Match, bridges: Bridges) -> Iterator[torch.Tensor]:
    """Those of which nothing keeps its initial value."""
    partly = {memory_key(tensors[name]) for name, how in bridges.by_name.items() if not how.complete}
    return (tensors[name] for name in found.loaded if memory_key(tensors[name]) not in partly)


def _origins(data: object, fit: Fit) -> dict[str, int]:
    """Of which merged checkpoint each tensor is, by the names that loaded and skipped ones have in a report."""
    origins = data.origins if isinstance(data, CheckpointData) else {}
    return {fit.called.get(name, name): number for name, number in origins.items()}


def _targets(fit: Fit) -> dict[str, Target]:
    """Memory for every tensor that is to be filled. Tied ones have one: the last name wins, as in load_state_dict."""
    provide(fit.needed)
    once = {fit.left.model[name].memory: name for name in fit.found.pairs}
    return {name: target_of(name, fit.tensors[name]) for name in once.values()}


def _devices(targets: Mapping[str, Target]) -> str:
    return ", ".join(sorted({str(target.tensor.device) for target in targets.values()}))


def origin(context: CheckpointContext) -> str | None:
    """Where the weights come from, for a person: the source, also when they were read from its bundle."""
    manifest = getattr(context.checkpoint_data, "manifest", None)
    return manifest.source.uri if manifest else str(context.checkpoint_path or "") or None


@contextmanager
def touching() -> Iterator[None]:
    """Errors that leave this block say that the model was touched."""
    try:
        yield
    except CheckpointError as error:
        error.args = (f"{error.args[0]}; {TOUCHED}", *error.args[1:])
        raise
    except Exception as error:
        raise CheckpointLoadError(f"filling the model failed: {type(error).__name__}: {error}; {TOUCHED}") from error
