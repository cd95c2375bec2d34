"""`preheat migrate` as a person uses it."""

import json
import os
import shutil

import pytest
import yaml
from migrate.configurations import CONFIGS
from typer.testing import CliRunner

from preheat.cli import app

LINNAEUS = CONFIGS / "linnaeus" / "experiment.yaml"


def migrate(*arguments):
    return CliRunner().invoke(app, ["migrate", *map(str, arguments)])


def test_without_a_folder_the_resource_is_printed_and_can_be_applied():
    done = migrate(LINNAEUS)
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["kind"] == "CheckpointPipeline"
    assert done.stderr.startswith("this is linnaeus, surely, by MODEL.PRETRAINED")
    assert "VerySecret" not in done.output


def test_with_a_folder_files_are_written_and_never_over_others(tmp_path):
    done = migrate(LINNAEUS, "--pipeline", "--name", "mine", "-o", tmp_path / "new")
    assert done.stdout.splitlines() == [str(tmp_path / "new" / name) for name in ("mine.yaml", "mine-pipeline.yaml")]
    assert "SCHEDULE.CHECKPOINT.{KEEP_TOP_N, KEEP_LAST_N}" in done.stderr
    again = migrate(LINNAEUS, "--name", "mine", "-o", tmp_path / "new")
    assert (again.exit_code, "exists" in again.stderr) == (50, True)
    assert migrate(LINNAEUS, "--name", "mine", "-o", tmp_path / "new", "--force").exit_code == 0


def test_both_spellings_are_two_documents_of_one_stream():
    done = migrate(CONFIGS / "anemoi" / "guide.yaml", "--pipeline")
    resource, pipeline = yaml.safe_load_all(done.stdout)
    assert (resource["kind"], pipeline["_target_"]) == ("CheckpointPipeline", "preheat.CheckpointPipeline")


def test_for_programs_there_is_one_object():
    answer = json.loads(migrate(LINNAEUS, "--json").stdout)
    assert answer["system"] == "linnaeus"
    assert answer["resource"]["spec"]["stages"][0]["named"]["name"] == "metafg_0_1k_384.pth"
    assert yaml.safe_load(answer["files"]["mformerv0-sm.yaml"]) == answer["resource"]
    assert {"keys": ["MODEL.RESUME"], "text": "off, so there is nothing to write"} in answer["remarks"]


def test_settings_follow_the_file_and_a_claim_moves_paths():
    done = migrate(CONFIGS / "noether" / "resume.yaml", "resume_checkpoint=U25", "--claim", "runs=/output")
    spec = yaml.safe_load(done.stdout)["spec"]
    assert spec["stages"][0]["run"]["select"] == "U25"
    assert spec["stages"][0]["run"]["root"] == {"local": {"path": "/preheat"}}
    assert spec["volume"] == {"persistentVolumeClaim": {"claimName": "runs"}}


def test_what_is_not_beside_the_file_is_said():
    done = migrate(CONFIGS / "noether" / "resume.yaml", "-o", "/dev/null/x")
    assert done.exit_code == 50
    assert "tracker is left to the command line" in migrate(CONFIGS / "noether" / "resume.yaml").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.yaml"], "none.yaml cannot be read"),
        ([LINNAEUS, "--from", "linneaus"], "did you mean 'linnaeus'"),
        ([LINNAEUS, "--claim", "models"], "Write --claim NAME=DIR"),
        ([LINNAEUS, "nonsense"], "Write KEY=VALUE"),
        ([LINNAEUS, "MODEL.PRETRAINED=../x.pth"], "../x.pth"),
    ],
)
def test_what_cannot_be_meant_is_answered(arguments, says):
    done = migrate(*arguments)
    assert (done.exit_code, says in done.stderr) == (2, True), done.output


def test_nothing_to_load_needs_no_resource():
    done = migrate(CONFIGS / "anemoi" / "train.yaml", "training.fork_run_id=null")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "it begins with random weights" in done.stderr
    only = migrate(CONFIGS / "anemoi" / "own.yaml")
    assert "only what runs in process: --pipeline" in only.stderr
    assert "my_module.MyLoader" in migrate(CONFIGS / "anemoi" / "own.yaml", "--pipeline").stdout


def test_without_ruamel_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ruamel.yaml", None)
    done = migrate(LINNAEUS)
    assert (done.exit_code, 'pip install "preheat[migrate]"' in done.stderr) == (2, True)


def test_without_omegaconf_interpolations_are_left_and_said(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "omegaconf", None)
    (tmp_path / "c.yaml").write_text("load_rack: ${root}/rack.pt\nroot: /data\n")
    done = migrate(tmp_path / "c.yaml")
    assert "path: ${root}/rack.pt" in done.stdout
    assert "preheat[hydra]" in done.stdout


def test_the_folder_of_a_configuration_is_never_written_to(tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "configs").rglob("*")}
    for path in (tmp_path / "configs").glob("*/*.yaml"):
        migrate(path)
    assert {path: os.stat(path).st_mtime_ns for path in (tmp_path / "configs").rglob("*")} == before
