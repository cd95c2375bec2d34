"""Plays a script as the processes of one training, with the environment that torchrun would give them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forks import forked


def play(script: Path, folder: Path, world: int = 2) -> list[dict[str, Any]]:
    """What each process left in `seen-<rank>.json` of the folder, which is the script's argument."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sizes = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    ours = {"PREHEAT_RANKS_TIMEOUT": "60", "PREHEAT_REPORT": str(folder / "report.json"), "OMP_NUM_THREADS": "1"}
    tests = {"PYTHONPATH": str(Path(__file__).parents[1]), "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | sizes | group | ours | tests
    command = [sys.executable, script, folder]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-12000:]
    return [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(world)]


def as_ranks(main: Callable[[int], dict[str, Any]]) -> None:
    """In the script: run `main` in each process, given its rank; it gives what it saw."""

    def one(rank: int) -> None:
        os.environ["LOCAL_RANK"] = str(rank)
        Path(sys.argv[1], f"seen-{rank}.json").write_text(json.dumps(main(rank)))

    sys.exit(forked(int(os.environ["WORLD_SIZE"]), one))
