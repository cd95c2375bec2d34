"""Names of a wrapped model beside those of the same model before it was wrapped. Pure, like `matching`.

Nothing is guessed: a name is followed only where one name of either side remains once the wrappers are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

#: What torch.compile, FSDP1 and activation checkpointing put into every name below them.
_ANYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

#: What DistributedDataParallel and DataParallel put before all names.
_BEFORE = "module."


def plain(name: str) -> str:
    """A name without the parts that torch.compile, FSDP1 and activation checkpointing put into it."""
    return ".".join(part for part in name.split(".") if part not in _ANYWHERE)


def followed(checkpoint: Iterable[str], model: Iterable[str]) -> Mapping[str, str]:
    """The model's names of those of the checkpoint that differ by wrappers alone."""
    names, targets = _left(checkpoint, model), _left(model, checkpoint)
    sources = {short: name for name, short in names.items()}
    return {sources[short]: target for target, short in targets.items() if short in sources}


def _left(side: Iterable[str], other: Iterable[str]) -> dict[str, str]:
    """Names that the other side does not have, with what is left of each; none that two of them would share."""
    side, others = tuple(side), set(other)
    outer = all(name.startswith(_BEFORE) for name in map(plain, side))
    shorter = {name: plain(name).removeprefix(_BEFORE) if outer else plain(name) for name in side}
    counts = Counter(shorter.values())
    return {name: short for name, short in shorter.items() if counts[short] == 1 and name not in others}


def note(names: Mapping[str, str]) -> str:
    """What was done, for the report."""
    name, target = next(iter(names.items()))
    return f"{len(names)} names matched without their wrappers, such as {name} as {target}"
