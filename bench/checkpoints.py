"""The checkpoints that are measured, made once and kept in the cache. Run as a program: checkpoints.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

DEMO, LARGE, WHOLE, SCATTERED = "demo.ckpt", "large.ckpt", "whole.pt", "scattered.safetensors"
WHOLE_TENSORS = 256  # of 8 MiB
RUNS, TENSORS_OF_A_RUN = 256, 64  # of 128 KiB


def make(folder: Path) -> None:
    """Make those that are not there."""
    missing = [name for name in (DEMO, LARGE, WHOLE, SCATTERED) if not (folder / name).exists()]
    for name in missing:
        new = (folder / name).with_suffix(".new")
        {DEMO: lightning, LARGE: lightning, WHOLE: state_dict, SCATTERED: small_tensors}[name](new, name)
        new.rename(folder / name)


def lightning(path: Path, name: str) -> None:
    """The demo's Lightning checkpoint, or one four times its size: the same layout with wider layers."""
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "finetune"))
    import model

    width = {DEMO: 768, LARGE: 1536}[name]
    model.WIDTH = width
    model.VOCABULARY = 8192 * width // 768
    torch.manual_seed(7)
    data = torch.utils.data.TensorDataset(torch.randint(model.VOCABULARY, (2, model.CONTEXT)))
    run, language_model = model.trainer(steps=1), model.LanguageModel()
    run.fit(language_model, torch.utils.data.DataLoader(data, batch_size=1))
    run.save_checkpoint(path)


def state_dict(path: Path, _: str) -> None:
    """2 GiB of weights and nothing else, as torch.save writes them: every byte of the object is needed."""
    import torch

    torch.manual_seed(7)
    torch.save({f"layers.{n:03}.weight": torch.randn(2048, 1024) for n in range(WHOLE_TENSORS)}, path)


def small_tensors(path: Path, _: str) -> None:
    """2 GiB of small tensors as safetensors, in runs that lie together."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    names = (f"runs.{run:03}.{n:02}" for run in range(RUNS) for n in range(TENSORS_OF_A_RUN))
    save_file({name: torch.randn(256, 128) for name in names}, path)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
