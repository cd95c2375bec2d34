"""LoRA where models are trained: from a bundle, under Lightning and its own checkpoints, on several ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from shim.bundles import WEIGHTS_ONLY, write_bundle

import preheat
from preheat.bundle.store import Store
from preheat.context import CheckpointContext
from preheat.pipeline import CheckpointPipeline
from preheat.prepare import prepare
from preheat.shim.lightning import applying_callback
from preheat.shim.reports.html import page
from preheat.shim.reports.tree import leaves, model_tree
from preheat.spec import parse

peft = pytest.importorskip("peft", reason="peft is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

#: Both ranks are made of one process that has imported everything: peft takes its time.
SCRIPT = """
import json, os, sys, torch, torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import fully_shard
import preheat
from preheat.errors import CheckpointError

folder, child = sys.argv[1], os.fork()
rank = 0 if child else 1
os.environ.update(RANK=str(rank), WORLD_SIZE="2")
dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
torch.manual_seed(rank)

def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))

plain = network()
report = preheat.apply(plain)
wrapped = torch.nn.parallel.DistributedDataParallel(plain)
whole = {name: value.sum().item() for name, value in plain.state_dict().items()}
sharded = network()
preheat.apply(sharded)
fully_shard(sharded)
sharded(torch.ones(1, 4) * (rank + 1)).sum().backward()
late = network()
fully_shard(late)
try:
    preheat.apply(late)
    refused = ""
except CheckpointError as error:
    refused = str(error)
own = get_peft_model(network(), LoraConfig(r=2, target_modules=["0"]))
fully_shard(own)
os.environ["PREHEAT_BUNDLE"] = f"{folder}/both"
preheat.apply(own)
filled = {name: value.full_tensor().sum().item() for name, value in own.state_dict().items()}
seen = {"added": report.added, "filled": filled, "ranks": report.ranks, "whole": whole, "refused": refused,
        "sharded": [n for n, p in sharded.named_parameters() if p.grad is not None]}
open(f"{folder}/seen-{rank}.json", "w").write(json.dumps(seen))
dist.destroy_process_group()
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""


def network() -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({"q": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 2)})


def bundle(tmp_path: Path, path: Path, *stages: dict[str, Any]) -> str:
    """What the loader makes of a checkpoint."""
    document = {"stages": [{"local": {"path": str(path)}}, *stages]}
    return str(prepare(parse(document), Store(tmp_path / "volume"), "test").folder)


@pytest.fixture
def report_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    return tmp_path / "report.json"


def test_an_adapter_alone_travels_in_a_bundle_with_its_settings(tmp_path, monkeypatch, report_file):
    base, model = network(), network()
    model.load_state_dict(base.state_dict())
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q"], init_lora_weights=False)
    theirs = peft.get_peft_model(base, config)
    theirs.save_pretrained(tmp_path / "adapter")
    monkeypatch.setenv("PREHEAT_BUNDLE", bundle(tmp_path, tmp_path / "adapter", {"lora": {}}))
    report = preheat.apply(model)
    x = torch.randn(3, 4)
    assert torch.equal(model["q"](x), theirs.base_model.model["q"](x))
    assert report.strategy == "lora"
    assert report.loaded == ("q.lora_A.default.weight", "q.lora_B.default.weight")
    assert "adapters of rank 2, alpha 8, 2 tensors from the checkpoint, in 1 layer (q); 16 of 46 elements train" in (
        report.line()
    )


def test_the_report_tells_of_every_tensor_what_became_of_it(tmp_path, monkeypatch, report_file):
    stages = [WEIGHTS_ONLY, {"lora": {"rank": 2, "targets": ["q"]}}]
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", network().state_dict(), stages)))
    preheat.apply(network())
    report = json.loads(report_file.read_text())
    states = {leaf.name: (leaf.state, leaf.frozen) for leaf in leaves(model_tree(report))}
    assert states == {
        "q.base_layer.weight": ("loaded", True), "q.base_layer.bias": ("loaded", True),
        "q.lora_A.default.weight": ("added", False), "q.lora_B.default.weight": ("added", False),
        "head.weight": ("loaded", True), "head.bias": ("loaded", True),
    }  # fmt: skip
    assert report["totals"] | {"added": 2, "loaded": 4, "leftInitial": 0, "frozen": 4} == report["totals"]
    assert report["added"] == ["q.lora_A.default.weight", "q.lora_B.default.weight"]
    assert "2 added" in page(report)


def lightning_model() -> Any:
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return self.net["head"](self.net["q"](batch[0])).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=0.05)

    return Model()


def fit(model: Any, epochs: int, seed: int) -> Any:
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=2)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[applying_callback()], **quiet)
    torch.manual_seed(seed)
    trainer.fit(model, data)
    return trainer


def test_a_training_of_adapters_under_lightning_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch, report_file):
    state = lightning_model().state_dict()
    stages = [WEIGHTS_ONLY, {"lora": {"rank": 2, "alpha": 4, "targets": ["net.q"]}}]
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path / "bundle", state, stages)))
    through, stopped = lightning_model(), lightning_model()
    fit(through, 4, seed=1)
    trainer = fit(stopped, 2, seed=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    changed = [name for name, value in stopped.state_dict().items() if "lora_" in name and value.count_nonzero()]
    assert len(changed) == 2
    assert torch.equal(through.net["q"].base_layer.weight, state["net.q.weight"])

    again = bundle(tmp_path, tmp_path / "run.ckpt", {"warmStart": {}}, {"lora": {"alpha": 4}})
    monkeypatch.setenv("PREHEAT_BUNDLE", again)
    resumed = lightning_model()
    assert fit(resumed, 4, seed=2).global_step == 12
    assert all(torch.equal(value, through.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_ranks_adapt_alike_before_they_wrap_and_are_refused_afterwards(tmp_path):
    state = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)).state_dict()
    folder = write_bundle(tmp_path / "bundle", state, [WEIGHTS_ONLY, {"lora": {"rank": 2, "targets": ["0"]}}])
    own = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)), peft.LoraConfig(r=2, target_modules=["0"])
    )
    both = {name: torch.randn_like(value) for name, value in own.state_dict().items()}
    write_bundle(tmp_path / "both", both, [WEIGHTS_ONLY, {"lora": {}}])
    given = {"PREHEAT_BUNDLE": str(folder), "PREHEAT_REPORT": str(tmp_path / "report.json"), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **given, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2))
    assert first["added"] == second["added"] == ["0.lora_A.default.weight", "0.lora_B.default.weight"]
    assert first["ranks"] == 2
    assert first["whole"] == second["whole"]
    assert first["sharded"] == second["sharded"] == first["added"]
    assert first["filled"] == second["filled"] == {name: value.sum().item() for name, value in both.items()}
    assert "wrapped or sharded already" in first["refused"]


@pytest.mark.parametrize("named", [True, False], ids=["by name", "by position"])
def test_a_model_that_the_program_adapts_goes_on_with_its_optimizer(tmp_path, named):
    def training() -> tuple[Any, Any]:
        config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q"], init_lora_weights=False)
        model = peft.get_peft_model(network(), config)
        trained = [(n, p) if named else p for n, p in model.named_parameters() if p.requires_grad]
        return model, torch.optim.AdamW(trained, lr=0.1)

    def step(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        model.base_model.model["q"](torch.ones(1, 4)).sum().backward()
        optimizer.step()

    model, optimizer = training()
    step(model, optimizer)
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.ckpt")
    again, restored = training()
    context = CheckpointContext(model=again, optimizer=restored)
    stages = [{"local": {"path": str(tmp_path / "run.ckpt")}}, {"warmStart": {}}, {"lora": {"rank": 2, "alpha": 8}}]
    CheckpointPipeline(stages).execute_sync(context)
    for each in ((model, optimizer), (again, restored)):
        step(*each)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
