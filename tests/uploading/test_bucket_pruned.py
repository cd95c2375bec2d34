"""What `preheat ls`, `tag` and `prune` do to a bucket that `preheat upload` has filled."""

import json
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner
from uploading.checkpoints_to_send import point, save

from preheat.cli import app
from preheat.runs import removal
from preheat.runs.shelf import Shelf

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipelines" / "retention.yaml"
NAMES = [f"net_cp=E{epoch}_U{10 * epoch}_S{100 * epoch}" for epoch in range(1, 5)]


def test_a_bucket_is_filled_listed_tagged_and_pruned(bucket: Any, tmp_path: Path) -> None:
    home = tmp_path / "exp-7" / "checkpoints"
    for name in NAMES:
        save(home, name)
    point(home, "latest", NAMES[3])
    point(home, "best.loss", NAMES[1])
    place = f"s3://{bucket.name}/runs"

    def preheat(*words: str) -> Any:
        done = CliRunner().invoke(app, [*words, "--json", "--endpoint", bucket.endpoint])
        assert done.exit_code == 0, done.output
        return json.loads(done.output.splitlines()[0])

    assert preheat("upload", str(tmp_path), place)["uploaded"] == 6
    assert [each["knownAs"] for each in preheat("ls", place)["checkpoints"]] == [["latest"], [], ["best.loss"], []]
    preheat("tag", f"{place}/exp-7", NAMES[0], "release-1")
    preheat("prune", place, "--keep-last", "1", "--yes")
    left = {key.split("/")[3] for key in bucket.objects() if key.count("/") == 4}
    assert left == {NAMES[0], NAMES[1], NAMES[3]}


def test_the_job_that_the_docs_show_prunes(bucket: Any, tmp_path: Path) -> None:
    job = yaml.safe_load(EXAMPLE.read_text())["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    program, *words = job["containers"][0]["command"]
    for epoch in range(1, 6):
        save(tmp_path / "checkpoints", f"net_cp=E{epoch}")
    place = words[1].replace("my-runs", bucket.name)
    assert program == "preheat"
    for command in (["upload", str(tmp_path), place], [words[0], place, *words[2:]]):
        done = CliRunner().invoke(app, [*command, "--endpoint", bucket.endpoint])
        assert done.exit_code == 0, done.output
    left = {key.split("/")[2] for key in bucket.objects() if "/checkpoints/" in key}
    assert left == {"net_cp=E3", "net_cp=E4", "net_cp=E5"}


def test_a_checkpoint_goes_with_its_manifest_first(bucket: Any, tmp_path: Path) -> None:
    save(tmp_path, NAMES[0], aaa=b"before by name")
    CliRunner().invoke(app, ["upload", str(tmp_path), f"s3://{bucket.name}/runs", "--endpoint", bucket.endpoint])
    [found] = Shelf.look(bucket.source("runs")).checkpoints
    assert removal._in_order(found.files)[0].name == "manifest.json"
