"""What every strategy that loads by name does: match, check, fill, and say what happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from preheat.checks import Checks, Findings
from preheat.context import CheckpointContext
from preheat.errors import CheckpointError, CheckpointLoadError
from preheat.strategies.checking import check_finite
from preheat.strategies.leaving import REASON as RESET
from preheat.strategies.leaving import leave
from preheat.strategies.matching import Tolerance, check, match
from preheat.strategies.memory import needed, provide
from preheat.strategies.shards import target_of
from preheat.strategies.sizes import sizes_in
from preheat.strategies.targets import entries_of, memory_key, tensors_of
from preheat.strategies.weights import open_weights
from preheat.strategies.wrapping import followed, note

TOUCHED = "the model was touched: do not train with it"


def load_matching(
    context: CheckpointContext, strategy: str, tolerance: Tolerance, reset: tuple[str, ...] = ()
) -> CheckpointContext:
    """Fill the model with the weights that fit, except the layers that `reset` names.

    Raises before the model is touched, or says that it was.
    """
    context.validate_for_stage(strategy, ["model", "checkpoint_data"])
    assert context.checkpoint_data is not None  # noqa: S101 - for the type checker; validated above
    checks = context.checks or Checks()
    findings = Findings(checks.warn_only)
    with context.together("match"):
        tensors = tensors_of(context.model)
        weights = open_weights(context.checkpoint_data)
        if renamed := followed(weights.entries, tensors):
            weights = weights.renamed(renamed)
        left = leave(weights.entries, entries_of(tensors), reset)
        found = match(left.checkpoint, left.model)
        check(found, left.checkpoint, left.model, tolerance)
        need = needed(context.model, (tensors[name] for name in found.loaded), context.device)
        weights.check(found.pairs, checks, findings)
        for name in found.pairs:
            target_of(name, tensors[name])

    started = perf_counter()
    with touching():
        provide(need)
        # Tied parameters are one memory: the last name wins, as in load_state_dict.
        once = {memory_key(tensors[name]): name for name in found.pairs}
        chosen = {name: target_of(name, tensors[name]) for name in once.values()}
        size = weights.fill(chosen)
        if checks.finite:
            check_finite({name: target.tensor for name, target in chosen.items()}, findings)
    context.add_warnings(findings.warnings)
    context.model.weights_initialized = True
    context.optimizer = context.scheduler = None  # they start fresh
    skipped = {**found.skipped, **dict.fromkeys(left.of_checkpoint, RESET)}
    context.update_metadata(
        loading_strategy=strategy,
        transferred_params=list(found.loaded),
        skipped_params=skipped,
        skipped_sizes=sizes_in(weights.entries, skipped),
        initial_params={**found.initial, **dict.fromkeys(left.of_model, RESET)},
        dtype_casts=dict(found.casts),
        loaded_bytes=size,
        load_seconds=perf_counter() - started,
        partial_params=sum(target.region is not None for target in chosen.values()),
        loading_notes=[*need.notes(), *([note(renamed)] if renamed else [])],
    )
    return context


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
