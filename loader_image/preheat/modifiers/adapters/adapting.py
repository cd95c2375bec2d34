"""Puts LoRA adapters into a model with peft, fills them from the checkpoint, and says what there is now.

The model and the parameters of its base stay the objects that they are. Only peft knows what adapters look like, so
they are put in before the checkpoint's are compared with them; if these do not fit, the model gets its modules back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from preheat.checks import Checks, Findings
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, NothingMatchedError
from preheat.modifiers.adapters.injection import (
    Snapshot,
    adapters_of,
    inject,
    passed_by,
    refuse_flattened,
    refuse_idle_optimizers,
)
from preheat.modifiers.adapters.names import Spelling, paired, received
from preheat.modifiers.adapters.outcome import Adapted, Loaded, tell
from preheat.modifiers.adapters.settings import compare, settings
from preheat.paths import some
from preheat.strategies.filling.checking import check_finite
from preheat.strategies.filling.shards import target_of
from preheat.strategies.loading import touching
from preheat.strategies.matching import Match, Tolerance, check, match
from preheat.strategies.targets import check_fillable, entries_of, named_tensors
from preheat.strategies.weights import Weights, open_weights

if TYPE_CHECKING:
    from preheat.modifiers.lora import LoRAModifier


@dataclass(frozen=True)
class Given:
    """What the checkpoint has for the modifier."""

    weights: Weights
    adapters: Spelling
    config: Mapping[str, Any] | None  # adapter_config.json
    alone: bool  # no stage has loaded the base: all of the checkpoint is the adapters'

    @property
    def ranks(self) -> set[int]:
        """Those of its adapters."""
        shapes = (self.weights.entries[name].shape for name in self.adapters.adapted.values())
        return {shape[0] for shape in shapes if shape}


@dataclass(frozen=True)
class Fit:
    """The checkpoint's adapters under the names that the model has for them."""

    weights: Weights
    names: Mapping[str, str]  # in the checkpoint -> in the model
    found: Match


def adapt(context: CheckpointContext, wanted: LoRAModifier) -> CheckpointContext:
    """Run the modifier; raises before the model is changed, gives it its modules back, or says that it was touched."""
    context.validate_for_stage("lora", ["model"])
    before, snapshot = named_tensors(context.model), Snapshot(context.model)
    refuse_flattened(context.model)
    findings = Findings(context.checks.warn_only if context.checks else ())
    try:
        with context.together("adapt") as facts:
            given = _given(context, wanted, before)
            config, tuner = _prepare(context.model, wanted, given)
            after = named_tensors(context.model)
            fit = _fit(context, given, after, findings) if given else None
            facts["adapters"] = f"rank {config.r}, {len(after) - len(before)} new tensors"
    except BaseException:
        snapshot.restore()
        raise
    started = perf_counter()
    with touching():
        size = _fill(context, fit, after, findings) if fit else 0
        if tuner is not None and wanted.merge:
            tuner.merge_and_unload(safe_merge=True)
            snapshot.let_train()
    if tuner is not None and not wanted.merge:
        refuse_idle_optimizers()
    context.add_warnings([*findings.warnings, *passed_by(context.model)])
    loaded = Loaded(fit.names, fit.found, size, perf_counter() - started, given.alone) if fit and given else None
    tell(context, Adapted(config, before, after, snapshot.trained, loaded, wanted.merge))
    return context


def _given(context: CheckpointContext, wanted: LoRAModifier, model: Mapping[str, torch.Tensor]) -> Given | None:
    """The checkpoint's adapters, or none; raises when nobody loads the weights that it has besides."""
    weights, data = context.weights, context.checkpoint_data
    if weights is None and context.has_checkpoint_data():
        weights = open_weights(data or {})
    names = weights.entries if weights else {}
    wanted.claim(context, names, model)
    adapters, _ = paired(names, model)
    config = data.get("adapter_config") if data else None
    config = config if isinstance(config, Mapping) else None
    alone = bool(names) and not context.weights_applied
    if alone and not adapters.adapters:
        raise NothingMatchedError(
            "the checkpoint holds no adapters, and no stage has loaded its weights",
            remedy="Put a strategy such as weightsOnly before lora",
        )
    if alone and adapters.base and config is None:
        raise CheckpointConfigError(
            f"the checkpoint holds more than adapters, and no stage has loaded that: {some(adapters.base.values())}",
            remedy="Put a strategy such as weightsOnly before lora, or leave them out with convert",
        )
    if not adapters.adapters and wanted.merge:
        raise NothingMatchedError("the checkpoint holds no adapters that could be merged", remedy="Leave merge out")
    return Given(weights, adapters, config, alone) if weights and adapters.adapters else None


def _prepare(model: torch.nn.Module, wanted: LoRAModifier, given: Given | None) -> tuple[Any, Any]:
    """See that the model has adapters; their LoraConfig, and peft's LoraModel if they are new."""
    saved = given.config if given else None
    if own := adapters_of(model):
        if wanted.merge:
            raise CheckpointConfigError(
                "lora does not merge adapters that your program has made", remedy="Merge them there, after the load"
            )
        compare(wanted, saved, own.to_dict())
        return own, None
    found, ranks = (given.adapters, given.ranks) if given else (Spelling(), set[int]())
    tuner = inject(model, settings(wanted, saved, found, ranks), wanted.targets, wanted.modules_to_save)
    return next(iter(tuner.peft_config.values())), tuner


def _fit(context: CheckpointContext, given: Given, tensors: Mapping[str, torch.Tensor], findings: Findings) -> Fit:
    theirs, own = paired(given.weights.entries, tensors)
    pairs = received(theirs, own, whole=given.alone)
    weights = given.weights.called(pairs)
    names = {*own.adapters.values(), *pairs.values()}
    mine = {name: tensor for name, tensor in tensors.items() if name in names}
    check_fillable(context.model, mine)
    entries = entries_of(mine)
    found = match(weights.entries, entries)
    try:
        check(found, weights.entries, entries, Tolerance(missing=False, unexpected=False, mismatched=False))
    except CheckpointIncompatibleError as error:
        error.remedy = "Give lora the settings that the adapters were trained with, or exclude them with convert"
        raise
    for name in found.pairs:
        target_of(name, tensors[name])  # raises for what cannot be filled
    checks = context.checks or Checks()
    if not given.alone:  # the strategy has seen to what is asked of the object as a whole
        checks = Checks(crc32=checks.crc32, finite=checks.finite, warn_only=checks.warn_only)
    weights.check(found.pairs, checks, findings)
    return Fit(weights, pairs, found)


def _fill(context: CheckpointContext, fit: Fit, tensors: Mapping[str, torch.Tensor], findings: Findings) -> int:
    targets = {name: target_of(name, tensors[name]) for name in fit.found.pairs}
    size = fit.weights.fill(targets)
    if context.checks and context.checks.finite:
        check_finite({name: target.tensor for name, target in targets.items()}, findings)
    return size
