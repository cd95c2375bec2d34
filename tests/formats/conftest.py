"""One real Lightning checkpoint for the whole run: Lightning takes seconds to import."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lightning_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Written by `trainer.save_checkpoint` after one AdamW step of a tiny model."""
    import lightning
    import torch

    class Tiny(lightning.LightningModule):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 1))

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            return self.layers(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    folder: Path = tmp_path_factory.mktemp("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(Tiny(16), torch.utils.data.DataLoader(torch.randn(4, 4)))
        trainer.save_checkpoint(folder / "tiny.ckpt")
    return (folder / "tiny.ckpt").read_bytes()
