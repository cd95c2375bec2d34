"""Files that include others: Hydra's own composition is the oracle, linnaeus' rules are written down."""

from textwrap import dedent

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from preheat import CheckpointConfigError
from preheat.migrate.reading import read


@pytest.fixture
def files(tmp_path):
    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        return tmp_path / "config.yaml"

    return write


def by_hydra(path, *overrides):
    with initialize_config_dir(str(path.parent), version_base=None):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


GROUPS = {
    "base": "b: 2\na: 0\n",
    "data__zarr": "path: z\n",
    "data__other": "path: o\n",
    "model__big": "width: 5\n",
    "training__default": """
        defaults:
        - scalers: global
        - /data@inner: zarr
        run_id: null
        rollout: {max: "${a}"}
        """,
    "training__scalers__global": "s: 1\n",
    "experiment__x": """
        # @package _global_
        defaults:
        - /training/scalers@extra: global
        - override /data: other
        a: 7
        q: {z: 1}
        """,
}
CONFIG = """
    defaults:
    - data: zarr
    - training: default
    - optional cluster: none
    - model@main: big
    - base
    - experiment: x
    - _self_
    a: 1
    training: {run_id: abc}
    """


def test_defaults_are_composed_as_by_hydra(files):
    path = files(config=CONFIG, **GROUPS)
    assert read(path).document == by_hydra(path)


def test_where_self_stands_decides_who_wins(files):
    path = files(config=CONFIG.replace("- _self_", "").replace("- data: zarr", "- _self_\n    - data: zarr"), **GROUPS)
    assert read(path).document == by_hydra(path)
    assert read(path).document["a"] == 7


@pytest.mark.filterwarnings("ignore:In 'config'. Defaults list is missing")
def test_without_self_it_is_as_by_hydra(files):
    path = files(config=CONFIG.replace("    - _self_\n", ""), **GROUPS)
    assert read(path).document == by_hydra(path)


def test_what_is_given_on_the_command_line_is_meant_as_by_hydra(files):
    path = files(config=CONFIG, **GROUPS)
    given = ("training.run_id=b-2", "+new.key=[1,2]", "~q.z", "data=other")
    document = read(path, given).document
    assert document["training"]["run_id"] == "b-2"
    assert document["new"] == {"key": [1, 2]}
    assert document["q"]["z"] is None
    assert document["data"] != {"path": "z"}


def test_files_that_are_not_there_are_said_and_the_others_composed(files):
    path = files(config="defaults: [{data: zarr}, {training: mine}, {tracker: '???'}]\na: 1\n", data__zarr="path: z\n")
    found = read(path)
    assert found.document == {"data": {"path": "z"}, "a": 1}
    assert [remark.text.split(",")[0].split(":")[0] for remark in found.missing] == [
        "training/mine.yaml is not beside the configuration", "tracker is left to the command line",
    ]  # fmt: skip


def test_a_group_may_be_a_list_as_noethers_callbacks(files):
    path = files(config="defaults: [{callbacks: some}]\n", callbacks__some="- {kind: a}\n- {kind: b}\n")
    assert read(path).document == {"callbacks": [{"kind": "a"}, {"kind": "b"}]}


def test_files_that_include_one_another_end(files):
    path = files(config="defaults: [{a: x}]\n", a__x="defaults: [/config, x]\nv: 1\n")
    assert read(path).document == {"a": {"v": 1}}


def test_what_cannot_be_resolved_stays_and_is_named(files, monkeypatch):
    monkeypatch.setenv("OUT", "/output")
    path = files(config="a: ${oc.env:OUT}/x\nb: ${c.d}\nc: ${mine:1}\nl: ['${a}']\nm: ???\n")
    found = read(path)
    assert found.document == {"a": "/output/x", "b": "${c.d}", "c": "${mine:1}", "l": ["/output/x"], "m": None}
    assert found.unresolved == {"b", "c"}


def test_linnaeus_bases_lie_below_what_includes_them(files, monkeypatch):
    path = files(
        config="BASE: [base.yaml]\nMODEL: {BASE: [archs/sm.yaml], NAME: mine}\nTRAIN: {FROM: train.yaml, EPOCHS: 3}\n",
        base="MODEL: {NAME: base, IMG_SIZE: 1}\nBASE: ['']\nTRAIN: {EPOCHS: 1, AUTO_RESUME: true}\n",
        archs__sm="MODEL: {NAME: sm, TYPE: mFormerV0, IMG_SIZE: 2}\n",
        train="{EPOCHS: 2, CLIP: 5}\n",
    )
    document = read(path).document
    assert {key: document["MODEL"][key] for key in ("NAME", "TYPE", "IMG_SIZE")} == {
        "NAME": "mine", "TYPE": "mFormerV0", "IMG_SIZE": 2,
    }  # fmt: skip
    assert {key: document["TRAIN"][key] for key in ("EPOCHS", "CLIP", "AUTO_RESUME")} == {
        "EPOCHS": 3, "CLIP": 5, "AUTO_RESUME": True,
    }  # fmt: skip


def test_linnaeus_files_are_looked_for_in_config_dir(files, tmp_path, monkeypatch):
    path = files(config="BASE: [elsewhere.yaml, lost.yaml]\n", other__elsewhere="A: 1\n")
    monkeypatch.setenv("CONFIG_DIR", str(tmp_path / "other"))
    found = read(path)
    assert found.document["A"] == 1
    assert [(remark.keys, "lost.yaml" in remark.text) for remark in found.missing] == [(("BASE",), True)]


@pytest.mark.parametrize(
    ("text", "says"),
    [("APP_KEY: K00secret: x\n", "line 1"), ("- 1\n", "holds no mapping"), ("a: *b\n", "is not valid YAML")],
)
def test_an_error_names_the_file_and_quotes_no_line(files, text, says):
    with pytest.raises(CheckpointConfigError, match=says) as raised:
        read(files(config=text))
    assert "config.yaml" in str(raised.value)
    assert "K00secret" not in str(raised.value)


def test_a_file_that_is_not_there_and_settings_that_are_none_are_refused(files, tmp_path):
    with pytest.raises(CheckpointConfigError, match="cannot be read: No such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(CheckpointConfigError, match="'nonsense' is no setting"):
        read(files(config="a: 1\n"), ["nonsense"])
    with pytest.raises(CheckpointConfigError, match="a is no mapping"):
        read(files(config="a: 1\n"), ["a.b=2"])
