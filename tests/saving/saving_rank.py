"""One process of a gloo group that trains a sharded model, saves it with the others, and goes on from what they saved.

Arguments: folder, rank, number of processes. What it saw is left in a JSON file.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from forks import forked
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import preheat
from preheat.errors import CheckpointError
from preheat.saving.termination import Termination


class Training:
    """Sharded by FSDP2, or replicated; every rank has random numbers of its own."""

    def __init__(self, seed: int, *, sharded: bool = True, width: int = 33) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(7, width), torch.nn.Tanh(), torch.nn.Linear(width, 5))
        if sharded:
            fully_shard(self.model[0])
            fully_shard(self.model)
            self.trained: Any = self.model
        else:
            self.trained = torch.nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        torch.manual_seed(100 * seed + dist.get_rank())

    def steps(self, count: int) -> Training:
        for _ in range(count):
            self.optimizer.zero_grad()
            self.trained(torch.randn(4, 7)).square().mean().backward()
            self.optimizer.step()
        return self

    def facts(self) -> list[Any]:
        state = [value for each in self.optimizer.state.values() for value in each.values()]
        tensors = [*self.model.state_dict().values(), *state]
        whole = [each.full_tensor() if hasattr(each, "full_tensor") else each for each in tensors]
        return [each.double().tolist() for each in whole] + [torch.rand(3).tolist()]


def goes_on(root: Path, *, sharded: bool, wait: bool, shards: bool = False) -> bool:
    """Whether a training that stopped for a checkpoint ends as one that did not."""
    straight = Training(1, sharded=sharded).steps(3)
    average = preheat.Average(straight.trained, 0.5)
    average.update()
    given: dict[str, Any] = {"update": 3, "averages": average, "wait": wait, "sharded": shards}
    folder = preheat.save(root, straight.trained, straight.optimizer, **given)
    wanted = straight.steps(2).facts()
    preheat.flush()
    dist.barrier()
    resumed = Training(2, sharded=sharded)
    stages = [{"local": {"path": str(folder)}}, {"warmStart": {}}]
    preheat.apply(resumed.model, resumed.optimizer, pipeline=stages)
    return resumed.steps(2).facts() == wanted


def by_groups(root: Path) -> str:
    """What each process has in a mesh of its own, as tensor parallelism has within DDP, is saved once."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(), 1), mesh_dim_names=("replicas", "parts"))["parts"]
    return str(preheat.save(root, _spread_over(mesh), update=1, sharded=True))


def without_first(root: Path) -> str:
    """What a rank raises when the first has no part in a tensor."""
    try:
        return str(preheat.save(root, _spread_over(DeviceMesh("cpu", [1])), update=1, sharded=True))
    except CheckpointError as error:
        return str(error)


def _spread_over(mesh: DeviceMesh) -> torch.nn.Module:
    net = torch.nn.Module()
    net.weight = torch.nn.Parameter(distribute_tensor(torch.arange(12.0).reshape(4, 3), mesh, [Shard(0)]))
    return net


def failing(root: Path) -> str:
    """What a rank raises when the one that writes cannot."""
    (root / "checkpoints").parent.mkdir(parents=True, exist_ok=True)
    (root / "checkpoints").write_text("no folder")
    return _refusal(root, Training(1))


def _refusal(root: Path, training: Training, **given: Any) -> str:
    try:
        preheat.save(root, training.model, training.optimizer, update=1, **given)
        preheat.flush()
    except CheckpointError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def failing_shards(root: Path) -> list[str]:
    """What a rank raises when the second cannot write its shard, to the end of a save and beside the training."""
    training = Training(1, width=100_000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == 1:  # more than the group's store will have, which is a file as well
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        return [_refusal(root, training, sharded=True, wait=wait) for wait in (True, False)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def differing(root: Path) -> str:
    """What a rank raises when the processes have different tensors, as stages of a pipeline do."""
    training = Training(1)
    if dist.get_rank() == 1:
        training.model.register_buffer("mine", torch.zeros(1))
    return _refusal(root, training, sharded=True)


def terminated(root: Path) -> int:
    """The step after which all stop when one is told to."""
    with Termination() as termination:
        for step in range(1, 20):
            dist.barrier()  # as gradients are exchanged in each step
            if step == 4 and dist.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if termination.after(step):
                return step
    return 0


def main(folder: Path, rank: int, world: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    seen = {
        "sharded": goes_on(folder / "sharded", sharded=True, wait=True),
        "beside": goes_on(folder / "beside", sharded=True, wait=False),
        "replicated": goes_on(folder / "replicated", sharded=False, wait=True),
        "shards": goes_on(folder / "shards", sharded=True, wait=True, shards=True),
        "shards beside": goes_on(folder / "shards beside", sharded=True, wait=False, shards=True),
        "shards failing": failing_shards(folder / "shards failing"),
        "shards by groups": by_groups(folder / "shards by groups"),
        "shards without the first": without_first(folder / "shards without the first"),
        "shards differing": differing(folder / "shards differing"),
        "failing": failing(folder / "failing"),
        "terminated": terminated(folder),
    }
    (folder / f"seen-{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks = int(sys.argv[2])
    sys.exit(forked(ranks, lambda rank: main(Path(sys.argv[1]), rank, ranks)))
