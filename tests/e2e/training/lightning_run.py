"""Six steps with Lightning; a checkpoint after three. Run again from that checkpoint it takes the last three."""

import os

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint


class Network(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.BatchNorm1d(32), torch.nn.Linear(32, 1))

    def training_step(self, batch, _):
        loss = self.layers(batch[0]).sub(batch[0].sum(1, keepdim=True)).square().mean()
        print("loss", self.global_step + 1, loss.item().hex(), flush=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("SEED", "0")))
rows = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))
batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=8)
keep = ModelCheckpoint(dirpath=os.environ["OUTPUT"], filename="{step}", save_top_k=-1)
trainer = lightning.Trainer(
    max_epochs=2, callbacks=[keep], accelerator="cpu", logger=False, enable_progress_bar=False, log_every_n_steps=1
)
trainer.fit(Network(), batches)
