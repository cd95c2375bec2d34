"""One process of a group that trains by Accelerate's FSDP2, and by Transformers' Trainer with `fsdp`.

Argument: folder. What it saw is left in a JSON file.

Accelerate shards where it finds accelerators, and never on CPUs: it is told here that gloo is a backend of theirs. All
that follows is its own code, and torch's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from shim.playing import as_ranks
from shim.sharded import Net, Unlucky, facts, optimizer_of, refusal, scheduler_of, train
from shim.trainings import TRAINER, defined_by

import preheat
from preheat.saving.transformers import Saving
from preheat.shim import accelerate, transformers
from preheat.shim.apply import report_on

FOLDER = Path(sys.argv[1])
Seen = dict[str, Any]


def prepared(seed: int, kind: Any = torch.optim.AdamW, **settings: Any) -> tuple[Any, ...]:
    """An accelerator with a fresh model, optimizer and scheduler, sharded."""
    AcceleratorState._reset_state(reset_partial_state=True)
    wrapping = {"auto_wrap_policy": "size_based_wrap", "min_num_params": 10}
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **wrapping, **settings)
    accelerator = Accelerator(fsdp_plugin=plugin, step_scheduler_with_optimizer=False)
    assert accelerator.is_fsdp2
    torch.manual_seed(seed)
    optimizer = optimizer_of(model := Net(), kind)
    return accelerator, *accelerator.prepare(model, optimizer, scheduler_of(optimizer))


def seen_of(model: Any) -> Seen:
    report = report_on(model)
    assert report is not None
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    return {"partial": report.partial, "bytes": report.size, "notes": report.notes, "frozen": frozen}


def goes_on(bundle: str) -> Seen:
    os.environ["PREHEAT_BUNDLE"] = str(FOLDER / bundle)
    accelerator, *objects = prepared(seed=7)
    losses = train(*objects, range(4, 8), accelerator.backward)
    saved = preheat.save(FOLDER / "accelerate", *objects, update=8)
    return {**seen_of(objects[0]), "losses": losses, "objects": facts(*objects), "saved": str(saved)}


def begins(bundle: str, **settings: Any) -> Seen:
    os.environ["PREHEAT_BUNDLE"] = str(FOLDER / bundle)
    _, model, *_ = prepared(seed=7, **settings)
    return {**seen_of(model), "weights": facts(model)[0]}


def trainer_of(training: Any, name: str, *callbacks: Any, seed: int = 0, **settings: Any) -> Any:
    AcceleratorState._reset_state(reset_partial_state=True)
    given = {"lr_scheduler_type": "cosine", "warmup_steps": 3, "num_train_epochs": 3, **settings}
    wrapping = {"transformer_layer_cls_to_wrap": "BertLayer"}
    arguments = training.arguments(FOLDER / name, fsdp=True, fsdp_config=wrapping, **given)
    torch.manual_seed(seed)
    trainer = training.Watching(training.build(), arguments, train_dataset=training.Rows(), callbacks=list(callbacks))
    assert trainer.accelerator.is_fsdp2
    return trainer


def trained(training: Any, trainer: Any, **given: Any) -> Seen:
    trainer.train(**given)
    state, objects = trainer.state, facts(trainer.model, trainer.optimizer, trainer.lr_scheduler)
    at = [state.global_step, state.epoch, torch.get_rng_state().tolist()]
    return {"losses": training.losses(trainer), "objects": objects, "at": at}


def trainers() -> Seen:
    """Of nine steps, three an epoch, that save in the middle of the second."""
    training = defined_by(TRAINER)
    saving, own = Saving(FOLDER / "trainer", every_updates=5, ema=0.5), {"save_strategy": "steps", "save_steps": 5}
    seen = {"straight": trained(training, trainer_of(training, "straight", saving, **own))}
    accelerate.install()
    transformers.install()
    os.environ["PREHEAT_BUNDLE"] = str(FOLDER / "trainer" / "checkpoints" / "model_cp=E1_U5")
    averaging = Saving(FOLDER / "again", every_updates=99, ema=0.5)
    trainer = trainer_of(training, "resumed", averaging, seed=5)
    seen["resumed"] = {**trained(training, trainer), **seen_of(trainer.model)}
    trainer = trainer_of(training, "given", seed=5)
    given = str(FOLDER / "straight" / "checkpoint-5")
    seen["given"] = {**trained(training, trainer, resume_from_checkpoint=given), **seen_of(trainer.model)}
    return seen


def main(rank: int) -> Seen:
    torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    seen = {
        "trainer": trainers(),  # the first of them without the shim
        "resumed": goes_on("one"),
        "weights": begins("weights", cpu_ram_efficient_loading=True),
        "frozen": begins("frozen"),
        "unlucky": refusal(lambda: begins("one", **{"kind": Unlucky} if rank else {})),
        "strange": refusal(lambda: begins("strange")),
    }
    return seen


if __name__ == "__main__":
    as_ranks(main)
