"""The verbs read a checkpoint of any size in the memory that the loader has with S3: 96 MiB."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = """
import re, sys
from preheat.cli import app
try:
    app(sys.argv[1:])
except SystemExit as ended:
    assert not ended.code, ended.code
print("PEAK", int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "x.ckpt"
    with torch.serialization.skip_data():  # the file has holes where the values would be
        torch.save({"w": torch.empty(1 << 27), "strided": torch.empty(1 << 12, 1 << 13).t()}, path)  # 640 MiB
    return path


@pytest.mark.parametrize("verb", ["inspect", "verify", "checksum", "compare"])
def test_memory_does_not_grow_with_the_checkpoint(verb: str, large: Path) -> None:
    arguments = {"compare": [large, large, "--values"], "checksum": [large, "--algorithm", "crc32"]}.get(verb, [large])
    command = [sys.executable, "-c", PROGRAM, verb, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("PEAK")[1]) < 96
