"""Folders with a manifest of ours as checkpoints: what makes one, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import preheat
from preheat.errors import CheckpointLoadError, CheckpointValidationError, TruncatedError
from preheat.verbs.inspection import inspect


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = torch.nn.Linear(3, 2)
    return preheat.save(tmp_path, model, torch.optim.SGD(model.parameters(), momentum=0.9), update=2)


def edit(folder: Path, change: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)  # type: ignore[operator]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def test_a_manifest_of_another_program_is_no_matter(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    assert inspect(tmp_path).layout == "safetensors"


def test_a_checkpoint_of_ours_tells_where_the_training_was(saved: Path) -> None:
    found = inspect(saved)
    assert (found.layout, found.parameters) == ("preheat", 8)
    assert found.state["global_step"] == 2


def test_a_file_that_is_cut_or_missing_is_named(saved: Path) -> None:
    content = (saved / "state.json").read_bytes()
    (saved / "state.json").write_bytes(content[:-5])
    with pytest.raises(TruncatedError, match=r"state\.json has \d+ bytes; its manifest says"):
        inspect(saved)
    (saved / "state.json").unlink()
    with pytest.raises(CheckpointLoadError.__mro__[1], match=r"state\.json"):
        inspect(saved)


def test_a_manifest_of_other_tensors_is_refused(saved: Path) -> None:
    edit(saved, lambda manifest: manifest["tensors"].pop("bias"))
    with pytest.raises(CheckpointValidationError, match=r"model\.safetensors and its manifest differ in 'bias'"):
        inspect(saved)


def test_a_manifest_that_cannot_be_read_says_why(saved: Path) -> None:
    edit(saved, lambda manifest: manifest.update(layout=99))
    with pytest.raises(CheckpointLoadError, match="its manifest has layout 99, this Preheat reads layout 1"):
        inspect(saved)
