"""The checkpoints that are measured, made once and kept in the cache. Usage: checkpoints.py FOLDER [NAME...]"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

DEMO, LARGE, WHOLE, SCATTERED = "demo.ckpt", "large.ckpt", "whole.pt", "scattered.safetensors"
SMALL, FOLDER, EXPERTS = "small.pt", "distributed", "experts.safetensors"
TENSORS = {WHOLE: 256, SMALL: 8}  # of 8 MiB
RUNS, TENSORS_OF_A_RUN = 256, 64  # of 128 KiB


def make(folder: Path, names: Sequence[str]) -> None:
    """Make those that are not there."""
    for name in names:
        if not (folder / name).exists():
            new = (folder / name).with_suffix(".new")
            MAKERS[name](new, name)
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


def state_dict(path: Path, name: str) -> None:
    """2 GiB or 64 MiB of weights and nothing else, as torch.save writes them: every byte of the object is needed."""
    import torch

    torch.manual_seed(7)
    torch.save({f"layers.{n:03}.weight": torch.randn(2048, 1024) for n in range(TENSORS[name])}, path)


def small_tensors(path: Path, _: str) -> None:
    """2 GiB of small tensors as safetensors, in runs that lie together."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    names = (f"runs.{run:03}.{n:02}" for run in range(RUNS) for n in range(TENSORS_OF_A_RUN))
    save_file({name: torch.randn(256, 128) for name in names}, path)


def experts(path: Path, _: str) -> None:
    """1 GB in 9,000 tensors, as a mixture of experts has them."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    layers = [f"layers.{layer}.experts.{expert}" for layer in range(60) for expert in range(50)]
    save_file({f"{at}.{name}.weight": torch.randn(128, 217) for at in layers for name in ("up", "gate", "down")}, path)


def folder(path: Path, _: str) -> None:
    """1 GiB in the format of torch.distributed.checkpoint."""
    import torch
    from torch.distributed import checkpoint

    torch.manual_seed(7)
    model = {f"layers.{n:03}.weight": torch.randn(2048, 1024) for n in range(128)}
    checkpoint.save({"model": model}, checkpoint_id=path, no_dist=True)


MAKERS = {
    DEMO: lightning,
    LARGE: lightning,
    WHOLE: state_dict,
    SMALL: state_dict,
    SCATTERED: small_tensors,
    FOLDER: folder,
    EXPERTS: experts,
}

if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2:] or (DEMO, LARGE, WHOLE, SCATTERED, FOLDER, EXPERTS))
