"""Boxes of several processes make up the tensors that they were cut from; headers that lie are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from preheat.bundle.data import read
from preheat.checks import Checks
from preheat.errors import CheckpointLoadError, CheckpointValidationError
from preheat.file_blob import FileBlob
from preheat.formats.files import read_file
from preheat.formats.saved_shards import MODEL, header_of, kind_of, put_together, shard_name
from preheat.formats.shards import moved
from preheat.index import Tensor
from preheat.joined_blob import JoinedBlob
from preheat.strategies.filling.slices import Cut, boxes_of, region_of


def together(folder: Path) -> tuple[JoinedBlob, dict[str, Tensor]]:
    blob = JoinedBlob("", [(path.name, FileBlob(path)) for path in sorted(folder.iterdir())])
    try:
        return blob, put_together((member.name, moved(read_file(member.blob), member)) for member in blob.members)
    except BaseException:
        blob.close()
        raise


@given(
    shape=st.lists(st.integers(0, 7), max_size=3).map(tuple),
    cuts=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 2)), max_size=2),
)
def test_what_was_cut_and_saved_is_put_together_again(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], cuts: list[tuple[int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    whole = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    cuts = [(axis, parts, blocks) for axis, parts, blocks in cuts if axis < len(shape)]
    sizes = torch.Size(parts for _, parts, _ in cuts)
    for rank in range(sizes.numel()):
        places = torch.unravel_index(torch.tensor(rank), sizes) if cuts else ()
        mine = [Cut(axis, parts, int(at), blocks) for (axis, parts, blocks), at in zip(cuts, places, strict=True)]
        for number, (corner, _) in enumerate(boxes_of(region_of(shape, mine))):
            lengths = [held.stop - held.start for held in list(boxes_of(region_of(shape, mine)))[number][1]]
            box = whole[tuple(slice(c, c + n) for c, n in zip(corner, lengths, strict=True))]
            save_file({"w": box.contiguous()}, folder / shard_name(MODEL, rank, number, 9), header_of({"w": corner}))
    if not whole.numel():  # no process has a box of it; the first one saves it as it is
        save_file({"w": whole}, folder / shard_name(MODEL, 0, 0, 1), header_of({"w": (0,) * len(shape)}))
    blob, tensors = together(folder)
    with_values = read(blob, tensors["w"], Checks())
    blob.close()
    assert torch.equal(with_values, whole)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (None, "does not say where its tensors lie"),
        ({}, "does not say where 'w' lies"),
        ({"w": {"saved_offsets": [0]}}, "does not say where 'w' lies"),
        ({"w": {"saved_offsets": [0, -1]}}, "does not say where 'w' lies"),
        ({"w": {"saved_offsets": [0, True]}}, "does not say where 'w' lies"),
        ({"w": {"saved_offsets": [0, 1 << 40]}}, "do not make up its shape"),
        ({"w": {"saved_offsets": [1, 0]}}, "do not make up its shape"),
    ],
)
def test_a_header_that_places_nothing_or_leaves_a_hole_is_refused(tmp_path: Path, told: Any, words: str) -> None:
    header = {"DCP_SHARDING_INFO": json.dumps(told)}
    save_file({"w": torch.ones(2, 3)}, tmp_path / shard_name(MODEL, 0, 0, 1), header)
    with pytest.raises((CheckpointLoadError, CheckpointValidationError), match=words):
        together(tmp_path)


def test_boxes_that_overlap_or_differ_in_dtype_are_refused(tmp_path: Path) -> None:
    for rank, box in enumerate((torch.ones(2), torch.ones(2, dtype=torch.int32))):
        save_file({"w": box}, tmp_path / shard_name(MODEL, rank, 0, 1), header_of({"w": (2 * rank,)}))
    with pytest.raises(CheckpointValidationError, match="does not belong in F32"):
        together(tmp_path)
    save_file({"w": torch.ones(3)}, tmp_path / shard_name(MODEL, 1, 0, 1), header_of({"w": (1,)}))
    with pytest.raises(CheckpointValidationError, match="do not make up its shape"):
        together(tmp_path)


def test_only_names_of_shards_are_shards() -> None:
    assert kind_of(shard_name(MODEL, 123_456, 1, 2)) == MODEL
    assert kind_of("model.safetensors") is None
    assert kind_of("../shard-00001-model-00001-of-00001.safetensors") is None
