"""What later modifiers will load themselves is left out of a strategy's load, on both sides. Pure, like `matching`."""

from __future__ import annotations

from collections.abc import Iterable

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, NothingMatchedError
from preheat.stage import Claim
from preheat.strategies.leaving import Why, among

#: Why such a tensor was not loaded, in the report; the modifier that loads it takes that back.
CLAIMED = "left to a modifier"


def claimed(context: CheckpointContext, checkpoint: Iterable[str], model: Iterable[str]) -> Claim:
    """What the context's modifiers claim; raises when that is all of the checkpoint, or one name is wanted twice."""
    given, own = list(checkpoint), list(model)
    claims = [modifier.claim(context, given, own) for modifier in context.modifiers]
    total = Claim(
        {old: new for claim in claims for old, new in claim.renamed.items()},
        frozenset().union(*(claim.names for claim in claims)),
    )
    if sum(len(claim.names) for claim in claims) > len(total.names):
        raise CheckpointConfigError("two modifiers claim the same weights", remedy="Keep one of them")
    if given and total.names.issuperset(given):
        raise NothingMatchedError(
            f"all {len(given)} weights of the checkpoint, such as {given[0]}, are for a modifier",
            remedy="Remove the strategy: the modifier loads them by itself, into a model that has its other weights",
        )
    return total


def left_to(claim: Claim) -> Why:
    """Why names are left out of a load."""
    return among(claim.names, CLAIMED)
