"""Many small tensors: the loader's memory and time grow with their number, and by little."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import saved
from loader.loader_process import environment

#: A process's own peak; what the operating system tells a parent may be the parent's.
LOADER = """
from preheat.loader import main
code = main()
[line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(code, line.split()[1])
"""
COUNT = 30_000


def peak(path: Path, volume: Path, **stage: Any) -> float:
    """MiB that a loader takes for a checkpoint at the most."""
    volume.mkdir()
    stages = [{"local": {"path": str(path)}}, *({name: value} for name, value in stage.items()), {"weightsOnly": {}}]
    command = [sys.executable, "-c", LOADER]
    ended = subprocess.run(command, env=environment(stages, volume), capture_output=True, text=True, timeout=120)
    code, kilobytes = ended.stdout.split()
    assert code == "0", ended.stderr
    return int(kilobytes) / 1024


def safetensors_of(count: int) -> bytes:
    entries = {f"layers.{n // 8:05}.part{n % 8}.weight": _entry(n) for n in range(count)}
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + bytes(64 * count)


def _entry(number: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [64], "data_offsets": [64 * number, 64 * number + 64]}


def torch_zip_of(count: int) -> bytes:
    return saved({f"layers.{n // 8:05}.part{n % 8}.weight": torch.zeros(16) for n in range(count)})


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell a process's peak")
@pytest.mark.parametrize(("write", "bytes_each"), [(safetensors_of, 450), (torch_zip_of, 1200)])
def test_each_of_many_tensors_takes_little_memory(write: Any, bytes_each: int, tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    few.write_bytes(write(10))
    many.write_bytes(write(COUNT))
    grown = peak(many, tmp_path / "volume-many") - peak(few, tmp_path / "volume-few")
    assert grown * 2**20 / COUNT < bytes_each
