"""Files in Stack-Wise's layouts, small: what its trainer and its rack builder write, and the model that they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WIDTH, WORDS = 4, 11
CONFIG = {"model": {"d_model": WIDTH, "vocab_size": WORDS}, "training": {"checkpoint_dir": "./checkpoints"}}


class Adapter(torch.nn.Module):
    """LoRA as Stack-Wise hangs it below a linear layer."""

    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        self.down = torch.nn.Linear(WIDTH, rank, bias=False)
        self.up = torch.nn.Linear(rank, WIDTH, bias=False)


class Block(torch.nn.Module):
    """A block by its names."""

    def __init__(self) -> None:
        super().__init__()
        projections = ("q_proj", "k_proj", "v_proj", "out_proj")
        self.attention = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, WIDTH) for name in projections})
        self.ffn = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, WIDTH) for name in ("up_proj", "down_proj")})
        self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)


class Stack(torch.nn.Module):
    """Blocks, with adapters if they are asked for."""

    def __init__(self, blocks: int = 1, *, adapters_of: int | None = None) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(blocks))
        if adapters_of is not None:
            for number, block in enumerate(self.blocks):
                block.attention["q_proj"].add_module(f"lora_adapter_{adapters_of}_{number}", Adapter())


class Rack(torch.nn.Module):
    """The whole model: stacks, embedding and head."""

    def __init__(self, stacks: int, *, adapters: bool = False) -> None:
        super().__init__()
        self.stacks = torch.nn.ModuleList(Stack(adapters_of=n if adapters else None) for n in range(stacks))
        self.embedding = torch.nn.Embedding(WORDS, WIDTH)
        self.ln_f = torch.nn.LayerNorm(WIDTH)
        self.lm_head = torch.nn.Linear(WIDTH, WORDS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Enough to train every parameter of the stacks."""
        values = self.embedding(words)
        for stack in self.stacks:
            for block in stack.blocks:
                layers = [*block.attention.values(), *block.ffn.values(), block.norm1, block.norm2]
                for layer in layers:
                    values = layer(values)
        return self.lm_head(self.ln_f(values))


def progressive(path: Path, rack: Rack, optimizer: Any = None, cache: Any = None, **more: Any) -> Path:
    """`save_progressive_checkpoint`: the stacks, but neither embedding nor head."""
    document = {
        "stack_idx": len(rack.stacks) - 1,
        "timestamp": "2025-10-27T12:00:00",
        "epoch": 1,
        "loss": 0.5,
        "trunk_strategy": "frozen",
        "new_stack_precision": "half",
        "training_history": [{"stack_idx": 0, "loss": 0.7}],
        "config": CONFIG,
        "rack_builder": _builder(rack, more.pop("precision", {}), more.pop("adapters", {})),
        **({"optimizer_state_dict": optimizer.state_dict()} if optimizer else {}),
        **({"activation_cache": cache} if cache else {}),
        **more,
    }
    torch.save(document, path)
    return path


def rack_file(path: Path, rack: Rack, precision: dict[int, str] | None = None) -> Path:
    """`save_rack`: everything of the model but its last norm."""
    document = {
        "timestamp": "2025-10-27T12:00:00",
        "max_stacks": 12,
        "building_mode": "append",
        "default_precision": "full",
        "config": CONFIG,
        **_builder(rack, precision or {}, {}),
        "embeddings": rack.embedding.state_dict(),
        "lm_head": rack.lm_head.state_dict(),
    }
    torch.save(document, path)
    return path


def stack_file(path: Path, rack: Rack, number: int, precision: str = "full") -> Path:
    """`save_stack`."""
    document = {
        "timestamp": "2025-10-27T12:00:00",
        "stack_idx": number,
        "stack_state_dict": rack.stacks[number].state_dict(),
        "precision": precision,
        "qlora_adapters": None,
        "config": CONFIG,
    }
    torch.save(document, path)
    return path


def _builder(rack: Rack, precision: dict[int, str], adapters: Any) -> dict[str, Any]:
    return {
        "stacks": [stack.state_dict() for stack in rack.stacks],
        "current_stacks": len(rack.stacks),
        "precision_settings": {number: precision.get(number, "full") for number in range(len(rack.stacks))},
        "qlora_adapters": adapters,
    }
