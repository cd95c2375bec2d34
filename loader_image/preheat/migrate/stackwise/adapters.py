"""Stack-Wise's adapters: low-rank ones at the projections of every stack, in peft's terms."""

from __future__ import annotations

from preheat.migrate.migration import Draft
from preheat.migrate.settings import Settings
from preheat.migrate.traced import Traced, some

#: The layers that Stack-Wise puts adapters at.
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "up_proj", "down_proj"]
_RANK = 16  # Stack-Wise's own default
_ABOVE = ("training.qlora", "qlora")
_OLDER = ("training.progressive.qlora_", "progressive.qlora_", "training.qlora_")


def adapters_on(settings: Settings) -> Traced | None:
    """What says that there are adapters, if anything does."""
    on = settings.on(*(f"{above}.enabled" for above in _ABOVE), *(f"{above}enabled" for above in _OLDER))
    trunk = settings.first("training.progressive.trunk_strategy", "progressive.trunk_strategy")
    trained = trunk if trunk and str(trunk) == "qlora" else None
    return on.made(on.value, trained) if on else trained


def adapters(settings: Settings, draft: Draft) -> None:
    """`lora`, where adapters are on and something is loaded that they stand beside."""
    on = adapters_on(settings)
    if on is None:
        return
    if not draft.has_strategy:
        draft.remark("puts adapters beside weights that nothing loads: make them in your program", on)
        return
    rank = _setting(settings, "rank") or on.made(_RANK)
    alpha = _setting(settings, "alpha") or rank.made(2 * int(rank.value))
    dropout = _setting(settings, "dropout")
    draft.stage("lora", some(rank=rank, alpha=alpha, dropout=dropout, targets=on.made(TARGETS)), on)
    draft.remark(
        "makes peft's adapters, which the training image has to have. The base gets no gradient, the new stack's own "
        "weights neither: to train those, take its layers out of `targets` and name it under `modulesToSave`. "
        "Stack-Wise has never saved a file with adapters: its save fails",
        on,
    )


def _setting(settings: Settings, name: str) -> Traced | None:
    return settings.first(*(f"{above}.{name}" for above in _ABOVE), *(f"{above}{name}" for above in _OLDER))
