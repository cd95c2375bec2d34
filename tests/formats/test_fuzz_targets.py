"""The fuzz targets hold for their own seeds, so that `make fuzz` starts from something that works."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

FUZZ = Path(__file__).parents[2] / "fuzz"
sys.path.insert(0, str(FUZZ))
try:
    from targets import TARGETS
finally:
    sys.path.remove(str(FUZZ))


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds_and_for_changed_ones(name: str) -> None:
    target, choice = TARGETS[name], Random(7)

    def flip(data: bytes, _: int) -> bytes:
        at = choice.randrange(len(data) or 1)
        return data[:at] + bytes([choice.randrange(256)]) + data[at + 1 :]

    for seed in target.seeds():
        target.check(seed)
        assert len(seed) <= target.max_bytes
        for _ in range(20):
            changed = target.mutate(seed, target.max_bytes, flip, choice) if target.mutate else flip(seed, 0)
            target.check(changed)
