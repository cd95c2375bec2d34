"""A language model and a classifier that share an encoder: what is pretrained and what is fine-tuned in the demo."""

from __future__ import annotations

import lightning
import torch
from torch import nn

VOCABULARY, WIDTH, LAYERS, CONTEXT = 8192, 768, 6, 32


class Encoder(nn.Module):
    """Token ids [batch, CONTEXT] -> features [batch, CONTEXT, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, nhead=12, dim_feedforward=4 * WIDTH, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.embedding(tokens))


class LanguageModel(lightning.LightningModule):
    """Predicts each token; its head has VOCABULARY outputs."""

    def __init__(self, learning_rate: float = 1e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = Encoder()
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        [tokens] = batch
        return nn.functional.cross_entropy(self.head(self.encoder(tokens)).flatten(0, 1), tokens.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.hparams["learning_rate"])


class Classifier(lightning.LightningModule):
    """Sorts sequences into ten classes: the same encoder, another head."""

    def __init__(self, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = Encoder()
        self.head = nn.Linear(WIDTH, 10)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        tokens, labels = batch
        return nn.functional.cross_entropy(self.head(self.encoder(tokens).mean(1)), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.hparams["learning_rate"])


def trainer(steps: int, **options: object) -> lightning.Trainer:
    """A quiet CPU trainer."""
    return lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
