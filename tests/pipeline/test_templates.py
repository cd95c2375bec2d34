"""Every ready-made pipeline in each of its spellings, read by whoever reads it in earnest."""

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from typer.testing import CliRunner

from preheat import CheckpointConfigError, CheckpointPipeline, templates
from preheat.cli import app
from preheat.spec import parse
from preheat_operator.api import Pipeline

NAMES = templates.names()


def pipeline(name):
    return CheckpointPipeline.from_config(yaml.safe_load(templates.resource(name)))


def same(one, other):
    return one.stages == other.stages and one.patience == other.patience


def test_there_is_one_for_every_common_beginning():
    assert {"finetune", "lora", "transfer", "resume", "cold-start", "local", "hugging-face", "http"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_resource_is_accepted_by_operator_and_loader(name):
    document = yaml.safe_load(templates.resource(name))
    assert document["metadata"]["name"] == name
    assert Pipeline.parse(document).parsed == parse(document)
    assert templates.about(name).endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_the_python_is_the_same_pipeline(name):
    text = templates.in_python(name)
    module = {}
    exec(compile(text, name, "exec"), module)
    assert same(module["checkpoint_pipeline"](), pipeline(name))
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_hydra_instantiates_the_same_pipeline(name, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / f"{name}.yaml").write_text(templates.for_hydra(name))
    (tmp_path / "config.yaml").write_text(f"defaults: [{{checkpoint: {name}}}]\n")
    with initialize_config_dir(str(tmp_path), version_base=None):
        config = compose("config")
    assert same(instantiate(config.training.checkpoint_pipeline), pipeline(name))
    assert same(CheckpointPipeline.from_config(config), pipeline(name))


def test_an_unknown_template_is_answered_with_the_known():
    with pytest.raises(CheckpointConfigError, match="'finetun'; did you mean 'finetune'"):
        templates.resource("finetun")


@pytest.mark.parametrize(
    ("options", "file"),
    [([], "hugging-face.yaml"), (["--python"], "hugging_face.py"), (["--hydra"], "hugging-face.yaml")],
)
def test_init_writes_a_file_and_never_over_another(options, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", "hugging-face", *options])
    assert (done.exit_code, done.stdout) == (0, f"{file}\n")
    written = (tmp_path / file).read_text()
    assert "my-org/my-model" in written
    (tmp_path / file).write_text("mine")
    again = CliRunner().invoke(app, ["init", "hugging-face", *options])
    assert (again.exit_code, (tmp_path / file).read_text()) == (50, "mine")
    assert "replace it with --force" in again.stderr
    assert CliRunner().invoke(app, ["init", "hugging-face", *options, "--force"]).exit_code == 0
    assert (tmp_path / file).read_text() == written


def test_init_prints_what_there_is_and_what_it_would_write():
    there = CliRunner().invoke(app, ["init"]).stdout
    assert [name for name in NAMES if name not in there] == []
    assert CliRunner().invoke(app, ["init", "local", "-o", "-"]).stdout == templates.resource("local")


def test_two_spellings_at_once_are_refused():
    done = CliRunner().invoke(app, ["init", "local", "--python", "--hydra"])
    assert done.exit_code == 2
    assert "two spellings" in done.stderr
