"""One process of a group that trains by Lightning's ModelParallelStrategy, saves, and goes on from what was saved.

Argument: folder. What it saw is left in a JSON file. The model is sharded while it has no memory yet.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L  # noqa: N812 - as everybody calls it
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from shim.playing import as_ranks
from shim.sharded import ROWS, Net, Unlucky, facts, optimizer_of, refusal, scheduler_of
from torch.distributed.fsdp import fully_shard

from preheat.bundle.store import Store
from preheat.prepare import prepare
from preheat.saving.lightning import Saving
from preheat.shim.apply import report_on
from preheat.shim.lightning import applying_callback
from preheat.spec import parse

FOLDER = Path(sys.argv[1])


class Model(L.LightningModule):
    optimizer = torch.optim.AdamW

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.drawn: list[float] = []

    def configure_model(self) -> None:
        with torch.device("meta"):
            net = Net()
        self.encoder, self.head = net.encoder, net.head
        for part in (self.encoder, self.head):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = Net.forward(self, batch[0])  # type: ignore[arg-type]
        self.losses.append(loss.item())
        self.drawn.append(torch.rand(1).item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self, self.optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler_of(optimizer), "interval": "step"}}


def fit(*callbacks: Any, seed: int = 0, epochs: int = 3, **strategy: Any) -> tuple[Model, L.Trainer]:
    torch.manual_seed(100 * seed + int(os.environ["RANK"]))
    model, world = Model(), int(os.environ["WORLD_SIZE"])
    trainer = L.Trainer(
        strategy=ModelParallelStrategy(world, 1, process_group_backend="gloo", **strategy), devices=world,
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=any(isinstance(each, Saving) for each in callbacks), use_distributed_sampler=False,
        callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ROWS), batch_size=2))
    return model, trainer


def seen_of(model: Model, trainer: L.Trainer) -> dict[str, Any]:
    objects = facts(model, trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler)
    return {"objects": objects, "step": trainer.global_step, "losses": model.losses, "drawn": model.drawn}


def goes_on(bundle: Path, *callbacks: Any) -> dict[str, Any]:
    os.environ["PREHEAT_BUNDLE"] = str(bundle)
    model, trainer = fit(applying_callback(), *callbacks, seed=7)
    report = report_on(model)
    assert report is not None
    return {**seen_of(model, trainer), "notes": report.notes, "partial": report.partial, "bytes": report.size}


def loaded(checkpoint: Path) -> Path:
    """What the loader makes of a checkpoint, of which the first process is the loader."""
    stages = [{"local": {"path": str(checkpoint)}}, {"warmStart": {}}]
    if os.environ["RANK"] == "0":
        folder = prepare(parse({"stages": stages}), Store(FOLDER / "volume"), "test").folder
        (FOLDER / "bundle").symlink_to(folder)
    torch.distributed.barrier()
    return FOLDER / "bundle"


def main(rank: int) -> dict[str, Any]:
    seen: dict[str, Any] = {"straight": seen_of(*fit(Saving(FOLDER / "saved", ema=0.5)))}
    home = FOLDER / "saved" / "checkpoints"
    first = home / "model_cp=E1_U4"
    seen["resumed"] = goes_on(first, Saving(FOLDER / "again", ema=0.5, every_epochs=3))
    fit(Saving(FOLDER / "gathered", wait=False), epochs=1, save_distributed_checkpoint=False)
    fit(Saving(FOLDER / "shards", sharded=True), epochs=1)
    fit(epochs=1)[1].save_checkpoint(FOLDER / "own.ckpt")
    seen["own"] = goes_on(loaded(FOLDER / "own.ckpt"))
    Model.optimizer = Unlucky if rank else torch.optim.AdamW
    seen["unlucky"] = refusal(lambda: goes_on(first))
    return seen


if __name__ == "__main__":
    as_ranks(main)
