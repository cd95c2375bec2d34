"""One process of a gloo group that plays every scenario in turn and leaves what it saw in a JSON file per rank.

Arguments: folder, rank, number of processes. Models are compared with the bundle's tensors here, where they are.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from forks import forked
from safetensors.torch import load_file
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DeviceMesh, DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import preheat
from preheat.context import CheckpointContext
from preheat.errors import CheckpointError
from preheat.shim.apply import report_on
from preheat.stage import PipelineStage

Seen = dict[str, Any]


class Net(torch.nn.Module):
    """Uneven lengths, a tied parameter, a buffer, and one weight that is large beside the others."""

    def __init__(self, classes: int = 33) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(33, 16)
        self.up = torch.nn.Linear(16, 37)
        self.norm = torch.nn.LayerNorm(37)
        self.down = torch.nn.Linear(37, 16)
        self.head = torch.nn.Linear(16, classes, bias=False)
        if classes == 33:
            self.head.weight = self.embed.weight
        self.wide = torch.nn.Linear(2048, 1024, bias=False)
        self.register_buffer("steps", torch.zeros(3, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.down(self.norm(self.up(self.embed(x))))
        return self.head(hidden).sum() + self.wide(torch.ones(1, 2048, dtype=hidden.dtype)).sum()


class Broken(PipelineStage):
    """A modifier that fails on one rank."""

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        if dist.get_rank() == 1:
            raise ValueError("no luck")
        return context


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def equal(model: torch.nn.Module, wanted: dict[str, torch.Tensor], *without: str) -> bool:
    """Whether the model has the bundle's values; all ranks have to ask."""
    state = {name: whole(value).detach() for name, value in model.state_dict().items()}
    return all(torch.equal(state[name], wanted[name].to(state[name].dtype)) for name in wanted if name not in without)


def train(model: torch.nn.Module) -> bool:
    """One step; whether it did something."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = whole(model.norm.weight).detach().clone()
    model(torch.arange(4)).backward()
    optimizer.step()
    return not torch.equal(before, whole(model.norm.weight))


def applied(model: torch.nn.Module, **settings: Any) -> Seen:
    """What the report says, or the error."""
    try:
        report = preheat.apply(model, **settings)
    except CheckpointError as error:
        return {"reason": error.reason, "error": str(error)}
    return {**report.to_mapping()["totals"], "ranks": report.ranks, "notes": report.notes, "names": report.loaded}


def fsdp(model: torch.nn.Module) -> torch.nn.Module:
    fully_shard(model.wide)
    fully_shard(model)
    return model


def sharded(wanted: dict[str, torch.Tensor]) -> Seen:
    model = fsdp(Net())
    parameters = list(model.parameters())
    seen = applied(model)
    same = all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    return {**seen, "equal": equal(model, wanted), "same": same, "trains": train(model)}


def sharded_in_bfloat16(wanted: dict[str, torch.Tensor]) -> Seen:
    model = fsdp(Net().bfloat16())
    return {**applied(model), "equal": equal(model, wanted)}


def sharded_from_meta(wanted: dict[str, torch.Tensor]) -> Seen:
    with torch.device("meta"):
        model = fsdp(Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = applied(model)
    tied = model.head.weight is model.embed.weight
    result = {**seen, "equal": equal(model, wanted), "tied": tied}
    model(torch.arange(4)).backward()
    optimizer.step()
    return {**result, "trains": not equal(model, wanted)}


def sharded_with_other_head(wanted: dict[str, torch.Tensor]) -> Seen:
    with torch.device("meta"):
        model = fsdp(Net(classes=5))
    seen = applied(model)
    head = whole(model.head.weight)
    return {
        **seen,
        "equal": equal(model, wanted, "head.weight"),
        "head": bool(head.isfinite().all() and head.std() > 0),
    }


def frozen(wanted: dict[str, torch.Tensor]) -> Seen:
    model = fsdp(Net(classes=5))
    seen = applied(model)
    trains = train(model)
    gone = [name for name, p in model.named_parameters() if p.grad is None]
    return {**seen, "trains": trains, "without_gradient": gone, "equal": equal(model.up, {
        name.removeprefix("up."): value for name, value in wanted.items() if name.startswith("up.")})}  # fmt: skip


def cast(wanted: dict[str, torch.Tensor]) -> Seen:
    with torch.device("meta"):
        model = fsdp(Net())
    parameters = list(model.parameters())
    seen = applied(model)
    same = all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    dtypes = sorted({str(tensor.dtype) for tensor in model.state_dict().values()})
    return {**seen, "equal": equal(model, wanted), "same": same, "dtypes": dtypes, "trains": train(model)}


def cast_apart(wanted: dict[str, torch.Tensor]) -> Seen:
    model = fsdp(Net())
    return {**applied(model), "dtypes": sorted({str(p.dtype) for p in model.parameters()})}


def cast_by_layer(wanted: dict[str, torch.Tensor]) -> Seen:
    model = Net()
    fully_shard(model.norm)
    seen = applied(fsdp(model))
    return {**seen, "dtypes": [str(model.norm.weight.dtype), str(model.up.weight.dtype)], "equal": equal(model, wanted)}


def pruned(wanted: dict[str, torch.Tensor]) -> Seen:
    model = Net()
    seen = applied(model)
    chosen = model.up.weight_mask.nonzero().flatten().tolist()
    model = torch.nn.parallel.DistributedDataParallel(model)
    return {**seen, "chosen": chosen, "trains": train(model.module), "zeros": int((model.module.up.weight == 0).sum())}


def tensor_parallel(wanted: dict[str, torch.Tensor]) -> Seen:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = parallelize_module(Net(), mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    model.wide.weight = torch.nn.Parameter(distribute_tensor(model.wide.weight.detach(), mesh, [Shard(1)]))
    model.norm.weight = torch.nn.Parameter(distribute_tensor(model.norm.weight.detach(), mesh, [Replicate()]))
    return {**applied(model), "equal": equal(model, wanted)}


def both(wanted: dict[str, torch.Tensor]) -> Seen:
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("dp", "tp"))
    model = parallelize_module(Net(), mesh["tp"], {"up": ColwiseParallel(), "wide": ColwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    strided = any("Strided" in type(p).__name__ for t in model.parameters() for p in t.placements)
    return {**applied(model), "equal": equal(model, wanted), "strided": strided}


def of_one_rank(wanted: dict[str, torch.Tensor]) -> Seen:
    model, mesh = Net(), DeviceMesh("cpu", [0])
    for name, placement in (("weight", Shard(0)), ("bias", Replicate())):
        spread = distribute_tensor(getattr(model.norm, name).detach(), mesh, [placement])
        setattr(model.norm, name, torch.nn.Parameter(spread))
    seen, held = applied(model), model.norm.weight.to_local()
    return {**seen, "equal": torch.equal(held, wanted["norm.weight"]) if dist.get_rank() == 0 else not held.numel()}


def wrapped(wanted: dict[str, torch.Tensor]) -> Seen:
    model = torch.nn.parallel.DistributedDataParallel(Net())
    return {**applied(model), "equal": equal(model.module, wanted)}


def flattened(wanted: dict[str, torch.Tensor]) -> Seen:
    settings = {"use_orig_params": True, "device_id": torch.device("cpu")}
    model = Net(classes=5)
    model.wide = FullyShardedDataParallel(model.wide, **settings)
    model = FullyShardedDataParallel(model, **settings)
    seen = applied(model)
    with FullyShardedDataParallel.summon_full_params(model):
        same = equal(model.module, {name: wanted[name] for name in ("up.bias", "embed.weight", "steps")})
        same &= torch.equal(model.module.wide.module.weight, wanted["wide.weight"])
    return {**seen, "equal": same, "trains": bool(model(torch.arange(4)).backward() is None)}


def resumed(wanted: dict[str, torch.Tensor]) -> Seen:
    """One step after a warm start, sharded from the meta device, beside the same step in one process."""
    alone = Net()
    alone.load_state_dict(wanted)
    optimizer = torch.optim.AdamW(alone.parameters(), lr=0.1)
    optimizer.load_state_dict(torch.load(Path(os.environ["PREHEAT_BUNDLE"]).parent / "run.pt")["optimizer_state_dict"])
    with torch.device("meta"):
        model = fsdp(Net())
    sharded = torch.optim.AdamW(model.parameters(), lr=0.1)
    seen = applied(model, optimizer=sharded)
    moments = [state["exp_avg"] for state in sharded.state.values()]
    for each, own in ((alone, optimizer), (model, sharded)):
        each(torch.arange(4)).backward()
        own.step()
    same = all(
        torch.allclose(whole(a), b, atol=1e-6) for a, b in zip(model.parameters(), alone.parameters(), strict=True)
    )
    return {**seen, "equal": same, "moments": [type(each).__name__ for each in moments]}


def another_shape_on_one(wanted: dict[str, torch.Tensor]) -> Seen:
    model = Net(classes=5 if dist.get_rank() == 1 else 33)
    before = model.up.weight.detach().clone()
    return {**applied(model), "untouched": torch.equal(before, model.up.weight)}


def broken_modifier(wanted: dict[str, torch.Tensor]) -> Seen:
    return applied(Net())


def other_bytes_on_one(wanted: dict[str, torch.Tensor]) -> Seen:
    model = Net()
    before = model.up.weight.detach().clone()
    return {**applied(model), "untouched": torch.equal(before, model.up.weight)}


def one_that_stays_away(wanted: dict[str, torch.Tensor]) -> Seen:
    os.environ["PREHEAT_RANKS_TIMEOUT"] = "1"
    seen = {} if dist.get_rank() == 1 else applied(Net())
    dist.barrier()
    return seen


def alone(wanted: dict[str, torch.Tensor]) -> Seen:
    os.environ["PREHEAT_RANKS_TIMEOUT"] = "0"
    return applied(Net()) if dist.get_rank() == 0 else {}


def going_on(wanted: dict[str, torch.Tensor]) -> Seen:
    """With `onFailure: Continue`."""
    return without_fail(Net(classes=5 if dist.get_rank() == 1 else 33))


def going_on_too_late(wanted: dict[str, torch.Tensor]) -> Seen:
    """With weights that are in, and a modifier that matches nothing."""
    return without_fail(Net())


def without_fail(model: torch.nn.Module) -> Seen:
    os.environ["PREHEAT_ON_FAILURE"] = "Continue"
    before = model.up.weight.detach().clone()
    try:
        seen = applied(model)
    finally:
        del os.environ["PREHEAT_ON_FAILURE"]
    return {**seen, "untouched": torch.equal(before, model.up.weight), "strategy": strategy_of(model)}


def strategy_of(model: torch.nn.Module) -> str | None:
    report = report_on(model)
    return report.strategy if report else None


#: Scenarios by the folder of their bundle; a folder named after a rank is for that rank alone.
SCENARIOS: list[tuple[str, Callable[[dict[str, torch.Tensor]], Seen]]] = [
    ("exact", sharded), ("exact", sharded_in_bfloat16), ("exact", sharded_from_meta),
    ("transfer", sharded_with_other_head), ("freezing", frozen), ("exact", tensor_parallel), ("exact", both),
    ("cast", cast), ("cast apart", cast_apart), ("cast apart", cast_by_layer),
    ("pruned", pruned),
    ("exact", of_one_rank),
    ("exact", wrapped), ("transfer", flattened), ("resumed", resumed), ("exact", another_shape_on_one),
    ("broken", broken_modifier), ("differing", other_bytes_on_one),
    ("absent", going_on), ("exact", going_on), ("late", going_on_too_late),
    ("exact", one_that_stays_away), ("exact", alone),
]  # fmt: skip


def main(folder: Path, rank: int, world: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    wanted = load_file(folder / "exact" / "model.safetensors")
    seen = {}
    for bundle, play in SCENARIOS:
        own = folder / f"{bundle}-rank{rank}"
        os.environ["PREHEAT_BUNDLE"] = str(own if own.is_dir() else folder / bundle)
        torch.manual_seed(rank)
        name = play.__name__
        seen[name if name not in seen else f"{name} {bundle}"] = play(wanted)
    (folder / f"seen-{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks = int(sys.argv[2])
    sys.exit(forked(ranks, lambda rank: main(Path(sys.argv[1]), rank, ranks)))
