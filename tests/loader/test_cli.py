import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from preheat import __version__
from preheat.bundle.data import open_bundle
from preheat.cli import app

EXAMPLE = Path(__file__).parents[2] / "examples" / "offline"


def preheat(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    wide = {**os.environ, "COLUMNS": "200"}  # for paths of any length
    command = [sys.executable, "-m", "preheat", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=wide)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    subprocess.run([sys.executable, "make_checkpoint.py"], cwd=folder, check=True, capture_output=True)
    return folder


def test_the_offline_example_runs(example: Path) -> None:
    first = preheat("run", "pipeline.yaml", "--output", "bundles", folder=example)
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip().splitlines()[-1])
    for said in ("small.ckpt", "torch-zip", "4, 273,418 parameters", "CRC-32, finite, sizes"):
        assert said in first.stdout
    expected = torch.load(example / "checkpoints" / "small.ckpt", weights_only=True)["state_dict"]
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    again = preheat("run", "pipeline.yaml", "--output", "bundles", "--json", folder=example)
    answer = json.loads(again.stdout)
    assert (answer["outcome"], answer["folder"]) == ("reused", str(folder))


def test_a_bundle_is_read_back_as_a_checkpoint(example: Path) -> None:
    answer = json.loads(preheat("run", "pipeline.yaml", "--output", "other", "--json", folder=example).stdout)
    data = open_bundle(answer["folder"])
    expected = torch.load(example / "checkpoints" / "small.ckpt", weights_only=True)
    assert data["epoch"] == 3
    assert set(data["state_dict"]) == set(expected["state_dict"])
    assert torch.equal(data["state_dict"]["0.weight"], expected["state_dict"]["0.weight"])
    assert data.manifest
    assert data.manifest.stages == ({"transferLearning": {}}, {"freezing": {"layers": ["0"]}})
    data.close()


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom preheat.cli import app\n"
        "assert CliRunner().invoke(app, ['run', '--help']).exit_code == 0\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'numpy', 'boto3', 'botocore', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", "is not valid YAML"),
        ("- 1", "must hold one pipeline"),
        ("", "must hold one pipeline"),
        ("stages: []", "no stages"),
        ("stages: [{locl: {path: x}}]", "did you mean 'local'"),
        ("stages: [{weightsOnly: {}}]", "has no source"),
    ],
)
def test_a_wrong_pipeline_is_named_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "p.yaml"), "--output", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.startswith("InvalidPipeline: ")
    assert message in result.stderr


def test_an_error_has_its_exit_code_and_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("stages: [{local: {path: nothing.ckpt}}, {weightsOnly: {}}]")
    done = preheat("run", "p.yaml", "-o", "out", "--json", folder=tmp_path)
    assert done.returncode == 11
    assert json.loads(done.stdout)["reason"] == "NotFound"
    lines = [line for line in done.stderr.splitlines() if not line.startswith("reading")]
    assert lines[0].startswith(f"NotFound: there is no file {tmp_path}/nothing.ckpt")
    assert lines[1].startswith("  Check the path")


def test_a_missing_pipeline_file_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(tmp_path / "no.yaml"), "--output", str(tmp_path)])
    assert "no.yaml cannot be read: No such file or directory" in result.stderr
