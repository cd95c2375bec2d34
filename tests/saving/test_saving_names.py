"""Names of what is saved: whatever is accepted is read back as it was, and stays in its folder."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as some

from preheat.errors import CheckpointConfigError
from preheat.runs.names import CheckpointName
from preheat.runs.position import Position
from preheat.saving.best import tag_of
from preheat.saving.place import Place

TEXT = some.text("aB0_-.=/\\~ \n\u00e9", max_size=12)
COUNT = some.none() | some.integers(0, 10**12)


@given(TEXT, TEXT, TEXT, TEXT, TEXT, some.builds(Position, COUNT, COUNT, COUNT))
def test_a_place_is_refused_or_read_back(
    model: str, info: str, part: str, run_id: str, stage: str, position: Position
) -> None:
    place = Place(Path("/root"), position, model, info, part, run_id, stage)
    try:
        folder, pointer = place.folder, place.pointer("latest")
    except CheckpointConfigError:
        return
    assert folder.parent == pointer.parent == place.home
    assert len(folder.parts) == 4 + bool(run_id) + bool(stage)
    assert not {"..", ".", ""} & {*folder.parts}
    name = CheckpointName.parse(folder.name)
    assert name == CheckpointName(place.called, str(position), info)
    assert name.position == position
    assert CheckpointName.parse(pointer.name.removesuffix(".json")) == CheckpointName(place.called, "latest", info)


@given(
    some.text("ab_/.", min_size=1, max_size=8), some.none() | some.integers(0, 99), some.sampled_from(["", "ema=0.9"])
)
def test_whatever_a_metric_is_called_its_pointer_is_read_back(metric: str, tolerance: int | None, info: str) -> None:
    tag = tag_of(metric, tolerance)
    pointer = Place(Path("/root"), Position(1), info=info).pointer(tag)
    assert CheckpointName.parse(pointer.name.removesuffix(".json")) == CheckpointName("model", tag, info)
