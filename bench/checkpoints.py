"""The checkpoints that are measured, made once and kept in the cache. Run as a program: checkpoints.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

DEMO, LARGE = "demo.ckpt", "large.ckpt"


def make(folder: Path) -> None:
    """The demo's Lightning checkpoint, and one four times its size: the same layout with wider layers."""
    if all((folder / name).exists() for name in (DEMO, LARGE)):
        return
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "finetune"))
    import model

    for name, width in ((DEMO, 768), (LARGE, 1536)):
        path = folder / name
        if path.exists():
            continue
        model.WIDTH = width
        model.VOCABULARY = 8192 * width // 768
        torch.manual_seed(7)
        data = torch.utils.data.TensorDataset(torch.randint(model.VOCABULARY, (2, model.CONTEXT)))
        run, language_model = model.trainer(steps=1), model.LanguageModel()
        run.fit(language_model, torch.utils.data.DataLoader(data, batch_size=1))
        run.save_checkpoint(path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
