import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sources import s3_server
from sources.fault_server import FaultServer
from typer.testing import CliRunner

from preheat.cli import app
from preheat.cli.compare import DIFFERENT
from preheat.errors import CheckpointError

VERBS = ("inspect", "verify", "checksum", "compare")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    content = {"state_dict": {"a.weight": torch.randn(30, 20), "a.bias": torch.zeros(30)}, "epoch": 3}
    torch.save(content, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def answer(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def said(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.stdout


def test_inspect_answers_a_program_and_a_person(checkpoint: Path) -> None:
    found = answer("inspect", checkpoint)
    assert found["tensors"]["a.weight"] == {"dtype": "F32", "shape": [30, 20], "bytes": 2400}
    assert found["state"] == {"epoch": 3}
    text = said("inspect", checkpoint)
    for line in ("torch-zip (state_dict)", "epoch", "30 x 20", "2.4 kB"):
        assert line in text
    assert "30 x 20" not in said("inspect", checkpoint, "--depth", "1")
    assert "a.weight" not in said("inspect", checkpoint, "--match", "bias$")


def test_every_verb_reads_urls(checkpoint: Path) -> None:
    with FaultServer().running() as server:
        url = server.serve("/x.ckpt", checkpoint.read_bytes())
        assert answer("inspect", url)["layout"] == "state_dict"
        assert answer("verify", url)["records"] == 2
        assert answer("checksum", url)["checksum"] == answer("checksum", checkpoint)["checksum"]
        assert answer("compare", url, checkpoint, "--values")["equal"]


@pytest.mark.skipif(s3_server.executable() is None, reason="versitygw is not built; `make test` builds it")
def test_every_verb_reads_s3(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET_KEY)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    (tmp_path / "s3").mkdir()
    with s3_server.running(tmp_path / "s3") as endpoint:
        client = s3_server.client(endpoint)
        client.create_bucket(Bucket="models")
        client.upload_file(str(checkpoint), "models", "a/model.ckpt")
        location, options = "s3://models/a/model.ckpt", ("--endpoint", endpoint, "--region", "us-east-1")
        assert answer("inspect", location, *options)["state"] == {"epoch": 3}
        assert answer("verify", location, *options)["records"] == 2
        assert answer("checksum", location, *options)["checksum"] == answer("checksum", checkpoint)["checksum"]
        assert answer("compare", checkpoint, location, "--values", *options)["compared"] == 2
        assert answer("inspect", location, *options, "--anonymous", code=12)["reason"] == "AccessDenied"


def test_checksum_prints_what_sha256sum_prints(checkpoint: Path) -> None:
    expected = subprocess.run(["sha256sum", checkpoint], capture_output=True, text=True, check=True).stdout
    assert said("checksum", checkpoint) == expected


def test_compare_has_an_exit_code_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)["state_dict"]
    changed = {"a.weight": content["a.weight"] + 0.5, "a.bias": torch.zeros(31), "[red]new": torch.zeros(1)}
    torch.save(changed, tmp_path / "y.pt")
    found = answer("compare", checkpoint, tmp_path / "y.pt", "--values", code=DIFFERENT)
    assert found["unexpected"] == ["[red]new"]
    assert found["shapes"] == {"a.bias": [[30], [31]]}
    assert found["values"]["a.weight"]["maxAbs"] == pytest.approx(0.5, abs=1e-5)
    text = said("compare", checkpoint, tmp_path / "y.pt", "--values", code=DIFFERENT)
    assert "different: 1 unexpected, 1 of another shape, 1 with other values" in text
    assert "[red]new" in text
    assert said("compare", checkpoint, checkpoint).startswith("equal: 2 tensors")


def test_no_error_has_the_exit_code_of_a_difference() -> None:
    pending = [CheckpointError]
    while pending:
        error = pending.pop()
        assert error.exit_code not in (0, DIFFERENT)
        pending += error.__subclasses__()


def test_verify_says_why_not(checkpoint: Path) -> None:
    assert "verified" in said("verify", checkpoint)
    failed = answer("verify", checkpoint, "--sha256", "0" * 64, code=30)
    assert (failed["outcome"], failed["reason"]) == ("failed", "Corrupt")


def test_plan_moves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"stages: [{{local: {{path: {checkpoint}}}}}, {{weightsOnly: {{}}}}]")
    before = set(tmp_path.iterdir())
    found = answer("plan", tmp_path / "p.yaml", "--bandwidth", "1kB/s")
    assert (found["tensors"], found["requests"], found["ranges"]) == (2, 1, 1)
    assert found["seconds"] == pytest.approx(found["readBytes"] / 1000, abs=0.001)
    assert "weightsOnly" in said("plan", tmp_path / "p.yaml")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_in_the_same_words(verb: str, tmp_path: Path) -> None:
    arguments = [verb, str(tmp_path / "no.ckpt")] + [str(tmp_path / "no.ckpt")] * (verb == "compare")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 11
    assert result.stderr.splitlines()[-2:] == [
        f"NotFound: there is no file {tmp_path}/no.ckpt",
        "  Check the path; it is the one that the loader sees",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_options_of_s3_are_refused_elsewhere(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "x", *(["y"] if verb == "compare" else []), "--endpoint", "http://h"])
    assert result.exit_code == 2
    assert "x is not in S3" in result.stderr


def test_a_hostile_name_reaches_no_terminal(tmp_path: Path) -> None:
    torch.save({"\x1b[2Jgone": torch.zeros(1), "[bold]x[/bold]": torch.zeros(1)}, tmp_path / "x.pt")
    text = said("inspect", tmp_path / "x.pt")
    assert "\x1b" not in text
    assert "[bold]x[/bold]" in text


@pytest.mark.parametrize("verb", ["inspect", "plan"])
def test_a_look_imports_nothing_heavy(verb: str, checkpoint: Path) -> None:
    pipeline = checkpoint.parent / "p.yaml"
    pipeline.write_text(f"stages: [{{local: {{path: {checkpoint}}}}}, {{weightsOnly: {{}}}}]")
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom preheat.cli import app\n"
        f"assert CliRunner().invoke(app, [{verb!r}, sys.argv[1]]).exit_code == 0\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'numpy', 'boto3', 'botocore'}))"
    )
    command = [sys.executable, "-c", program, str(pipeline if verb == "plan" else checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
