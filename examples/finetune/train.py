"""An ordinary fine-tuning script. A careful one: it prints digests of its parameters before and after training."""

from __future__ import annotations

import hashlib
import json

import lightning
import torch
from model import CONTEXT, VOCABULARY, Classifier, trainer
from torch.utils.data import DataLoader, TensorDataset


class PrintDigests(lightning.Callback):
    """One JSON line per moment: parameter name -> SHA-256 of its bytes."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._print("before the first step", module)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._print("after the last step", module)

    def _print(self, moment: str, module: lightning.LightningModule) -> None:
        digests = {name: hashlib.sha256(p.detach().numpy()).hexdigest() for name, p in module.named_parameters()}
        print(json.dumps({"digests": moment, "parameters": digests}), flush=True)


def main() -> None:
    torch.manual_seed(1)
    data = TensorDataset(torch.randint(VOCABULARY, (8, CONTEXT)), torch.randint(10, (8,)))
    trainer(steps=2, callbacks=[PrintDigests()]).fit(Classifier(), DataLoader(data, batch_size=4))
    print("training finished", flush=True)


if __name__ == "__main__":
    main()
