"""The benches of loading, as far as they run without a GPU and without other loaders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def bench(program, *arguments, said=None):
    environment = os.environ | {"PYTHONPATH": f"{BENCH.parent / 'tests'}:{BENCH}"}
    command = [sys.executable, str(BENCH / program), *map(str, arguments)]
    done = subprocess.run(
        command, input=said, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_gpu_the_bench_of_devices_says_so_and_is_no_failure():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert bench("device.py").splitlines()[-1] == "skipped: no GPU"


def test_the_plan_names_what_matters_most_first():
    cells = bench(
        "device.py", "--device", "cpu", "--plan", "--scale", "0.02", "--places", "memory", "warm"
    ).splitlines()
    assert [cell.split(":")[0].strip() for cell in cells] == [
        "llama, memory", "llama, warm", "llama, warm, first load", "small, memory", "mixed, memory",
    ]  # fmt: skip


def test_a_worker_loads_checks_and_says_what_it_cannot(tmp_path):
    make = "from device_files import *; import sys; make_bundle(Path(sys.argv[1]), models(0.01)['mixed'])"
    environment = os.environ | {"PYTHONPATH": str(BENCH)}
    subprocess.run([sys.executable, "-c", make, str(tmp_path / "bundle")], env=environment, check=True)
    said = "check Preheat\nload load_file + load_state_dict\nload load_file + pin_memory\ncheck memcpy\n"
    answers = bench("load_worker.py", tmp_path / "bundle", tmp_path / "none.pt", said=said).splitlines()
    ready, preheat, other, refused, copied = [json.loads(line) for line in answers if line.startswith("{")]
    assert ready == {}
    assert 0 < preheat["moving"] <= preheat["seconds"]
    assert other["seconds"] > 0
    assert "error" in refused
    assert copied["extra"] < 16
