"""With which settings adapters are made: those of the pipeline, of the checkpoint's adapters, or peft's own. Pure.

A setting that both give must be the same in both where it decides what the adapters compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError
from preheat.modifiers.adapters.names import Spelling

if TYPE_CHECKING:
    from preheat.modifiers.lora import LoRAModifier

#: What peft calls them in an adapter_config.json.
RANK, ALPHA, DROPOUT, TARGETS, BIAS, WHOLE = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "bias",
    "modules_to_save",
)

_NEW_RANK = 8

#: Values of init_lora_weights by which peft changes nothing but the adapter that it makes.
_HARMLESS = (True, False, None, "gaussian", "orthogonal", "eva")

#: Settings by which peft makes layers anew, or imports a module that the file names.
_FAR_REACHING = ("layer_replication", "megatron_config")

#: Settings of which adapters keep nothing, or which concern another program.
_NOT_KEPT = ("inference_mode", "base_model_name_or_path", "revision", "auto_mapping", "peft_version", "megatron_core")


def settings(
    wanted: LoRAModifier, config: Mapping[str, Any] | None, found: Spelling, ranks: set[int]
) -> dict[str, Any]:
    """Arguments of peft's LoraConfig; targets only where they are the checkpoint's own.

    `config` is the checkpoint's adapter_config, `found` its adapters, `ranks` theirs.
    """
    if config is not None:
        return _as_saved(wanted, _whole(config, found))
    if found.adapters:
        return _as_found(wanted, found, ranks)
    rank = wanted.rank or _NEW_RANK
    return {RANK: rank, ALPHA: rank if wanted.alpha is None else wanted.alpha, **_given(wanted)}


def compare(wanted: LoRAModifier, config: Mapping[str, Any] | None, own: Mapping[str, Any]) -> None:
    """Raise CheckpointConfigError when a model's own adapters are not those of the pipeline or of the checkpoint."""
    asked = {"lora": {RANK: wanted.rank, ALPHA: wanted.alpha}, "adapter_config.json": config or {}}
    keys = (RANK, ALPHA, "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
    for place, given in asked.items():
        for key in keys:
            if given.get(key) is not None and given[key] != own.get(key):
                raise CheckpointConfigError(
                    f"the model has adapters with {key} {own.get(key)}, {place} says {given[key]}",
                    remedy="Make them with the same settings, or have lora make them",
                )


def _whole(config: Mapping[str, Any], found: Spelling) -> dict[str, Any]:
    """A bundle's manifest leaves long values out; the targets are known from the names, too."""
    cut = [key for key, value in config.items() if isinstance(value, Mapping) and "$omitted" in value]
    if unknown := [key for key in cut if key != TARGETS]:
        raise CheckpointIncompatibleError(
            f"{', '.join(unknown)} of the checkpoint's adapter_config.json is too long for a bundle",
            remedy="Load the adapter in one process, with a pipeline given to preheat.apply",
        )
    return {**config, **dict.fromkeys(cut, tuple(found.adapted))}


def _as_saved(wanted: LoRAModifier, config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("peft_type") != "LORA":
        raise CheckpointIncompatibleError(
            f"the checkpoint's adapter is of type {config.get('peft_type')!r:.40}, not LORA",
            remedy="Make it with peft in your program, before the checkpoint is applied",
        )
    if (init := config.get("init_lora_weights", True)) not in _HARMLESS:
        raise CheckpointIncompatibleError(
            f"the checkpoint's adapter changes the base when it is made (init_lora_weights {init!r:.40})",
            remedy="Convert it when you save it (path_initial_model_for_weight_conversion), or load it with peft",
        )
    if asked := [key for key in _FAR_REACHING if config.get(key)]:
        raise CheckpointIncompatibleError(
            f"the checkpoint's adapter asks for {', '.join(asked)}, which does more than to add adapters",
            remedy="Load it with peft in your program",
        )
    for key, given in ((RANK, wanted.rank), (ALPHA, wanted.alpha), (BIAS, wanted.bias)):
        if given is not None and key in config and given != config[key]:
            raise CheckpointConfigError(
                f"lora says {key} {given}, the checkpoint's adapter_config.json {config[key]}",
                remedy="Leave it out of lora: what the adapters were trained with is taken",
            )
    return {**{key: value for key, value in config.items() if key not in _NOT_KEPT}, **_given(wanted)}


def _as_found(wanted: LoRAModifier, found: Spelling, ranks: set[int]) -> dict[str, Any]:
    """Names and shapes tell everything but the scale."""
    if wanted.alpha is None:
        raise CheckpointConfigError(
            "the checkpoint holds adapters, and not the alpha that they were trained with", remedy="Give lora its alpha"
        )
    if len(ranks) != 1 or wanted.rank not in (None, *ranks):
        shown = ", ".join(map(str, sorted(ranks))) or "none"
        asked = f", lora asks for {wanted.rank}" if wanted.rank else ""
        raise CheckpointIncompatibleError(
            f"the checkpoint's adapters have the ranks {shown}{asked}",
            remedy="Give lora the rank that they have; several need the adapter_config.json that peft saves",
        )
    # Attention that is adapted has an adapted layer of its own, which peft sees to.
    outer = tuple(name for name in found.adapted if not any(name.startswith(f"{other}.") for other in found.adapted))
    taken = {TARGETS: outer, WHOLE: sorted(found.copied) or None}
    return {RANK: ranks.pop(), ALPHA: wanted.alpha, **taken, **_given(wanted)}


def _given(wanted: LoRAModifier) -> dict[str, Any]:
    given = {DROPOUT: wanted.dropout, BIAS: wanted.bias, WHOLE: list(wanted.modules_to_save) or None}
    return {key: value for key, value in given.items() if value is not None}
