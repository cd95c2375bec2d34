"""Six steps with the Trainer of Transformers; a checkpoint after three. Run again from that it takes the last three."""

import os

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed


class Losses(TrainerCallback):
    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            print("loss", state.global_step, float(logs["loss"]).hex(), float(logs["grad_norm"]).hex(), flush=True)


torch.set_num_threads(1)
set_seed(int(os.environ.get("SEED", "0")))
model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2))
rows = torch.randint(0, 64, (24, 16), generator=torch.Generator().manual_seed(1))
arguments = TrainingArguments(
    output_dir=os.environ["OUTPUT"], max_steps=6, save_steps=3, logging_steps=1, per_device_train_batch_size=4,
    use_cpu=True, report_to=[], disable_tqdm=True, learning_rate=1e-2, dataloader_num_workers=0,
)  # fmt: skip
data = [{"input_ids": row, "labels": row} for row in rows]
Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Losses()]).train()
