"""What becomes of a configuration of each system: golden files to read, and the decisions in them one by one."""

import pytest
import yaml
from migrate.configurations import CONFIGS, NAMES, expected

from preheat import CheckpointConfigError
from preheat.migrate import Answers, migrate
from preheat.migrate.places import Claim
from preheat.migrate.reading import read
from preheat.migrate.writing import pipeline_text, resource_text
from preheat.pipeline import CheckpointPipeline
from preheat.spec import parse
from preheat_operator.api import Pipeline


def migrated(name, *overrides, system=None, answers=None):
    found = read(CONFIGS / f"{name}.yaml", overrides)
    return migrate(found.document, system, answers, found.unresolved)[0]


def of(document, system=None, **answers):
    return migrate(yaml.safe_load(document), system, Answers(**answers))[0]


def spec(migration):
    return migration.document["spec"]


def remark(migration, key):
    return " ".join(each.text for each in migration.remarks if key in each.keys)


@pytest.mark.parametrize("name", NAMES)
def test_the_resource_is_as_it_was_read_and_is_one(name):
    migration = migrated(name)
    text = resource_text(migration, f"{name.partition('/')[2]}.yaml")
    assert text == expected(f"{name}.yaml", text)
    assert Pipeline.parse(yaml.safe_load(text)).parsed == parse(migration.document)
    assert max(map(len, text.splitlines())) <= 160


@pytest.mark.parametrize("name", NAMES)
def test_the_pipeline_for_use_in_process_has_the_same_stages(name):
    migration = migrated(name)
    text = pipeline_text(migration, "config.yaml")
    assert text.startswith("# @package training.checkpoint_pipeline\n")
    built = CheckpointPipeline.from_config(yaml.safe_load(text))
    assert tuple(built.stages) == parse(migration.document).stages


@pytest.mark.parametrize("name", NAMES)
def test_the_system_is_told_by_its_keys(name):
    migration, found = migrate(read(CONFIGS / f"{name}.yaml").document)
    assert migration.system == name.partition("/")[0]
    assert not found.others
    assert "surely" in str(found)


def test_a_configuration_of_two_systems_is_refused_until_it_is_said_whose():
    both = "{training: {fork_run_id: a}, MODEL: {PRETRAINED: b.pth}}"
    with pytest.raises(CheckpointConfigError, match=r"may be of anemoi or linnaeus .*fork_run_id.*MODEL\.PRETRAINED"):
        of(both)
    assert of(both, "linnaeus").system == "linnaeus"
    with pytest.raises(CheckpointConfigError, match=r"'linneaus'.*did you mean 'linnaeus'"):
        of(both, "linneaus")
    with pytest.raises(CheckpointConfigError, match="no key of a system"):
        of("{lr: 1}")


def test_a_doubt_is_told():
    found = migrate(yaml.safe_load("{training: {fork_run_id: a, load_weights_only: true, checkpoint_dir: b}}"))[1]
    assert str(found).startswith("anemoi, probably, by training.fork_run_id")
    assert str(found).endswith("it has keys of stackwise, too")


# Anemoi


@pytest.mark.parametrize(
    ("training", "strategy"),
    [
        ("run_id: a", {"warmStart": {}}),
        ("run_id: a, load_weights_only: true", {"weightsOnly": {"strict": False}}),
        ("run_id: a, load_weights_only: true, transfer_learning: true", {"transferLearning": {"skipMismatched": True}}),
        ("fork_run_id: a", {"warmStart": {}}),
        # Which does nothing by itself in Anemoi; said below.
        ("run_id: a, transfer_learning: true", {"warmStart": {}}),
    ],
)
def test_anemoi_loads_as_its_trainer_does(training, strategy):
    assert spec(of(f"{{training: {{{training}}}}}", "anemoi"))["stages"][1] == strategy


def test_anemois_file_wins_over_a_fork_and_a_fork_over_a_run():
    ids = "training: {run_id: mine, fork_run_id: theirs}"
    forked = of(f"{{{ids}}}")
    assert spec(forked)["stages"][0]["run"]["runId"] == "theirs"
    assert "name of the run that begins" in remark(forked, "training.run_id")
    assert "make `warmStart` `coldStart`" in remark(forked, "training.fork_run_id")
    filed = of(f"{{{ids}, system: {{input: {{warm_start: /a/b.ckpt}}}}}}")
    assert spec(filed)["stages"][0] == {"local": {"path": "/a/b.ckpt"}}
    assert "no effect beside the other settings" in remark(filed, "training.fork_run_id")


@pytest.mark.parametrize(
    ("paths", "root"),
    [
        ("system: {output: {root: /out, checkpoints: {root: checkpoint}}}", "/out/checkpoint"),
        ("system: {output: {root: /out, checkpoints: {root: /other/ckpt}}}", "/other/ckpt"),
        ("system: {output: {root: /out, checkpoints: {root: /out/checkpoint/r1}}}", "/out/checkpoint"),
        ("hardware: {paths: {output: /out/, checkpoints: /out/checkpoint/}}", "/out/checkpoint"),
        ("system: {output: {root: /out}}", "/out/checkpoint"),
        ("other: {}", "checkpoint"),
    ],
)
def test_anemois_runs_are_where_its_trainer_has_them(paths, root):
    stages = spec(of(f"{{training: {{run_id: r1}}, {paths}}}", "anemoi"))["stages"]
    assert stages[0]["run"] == {"root": {"local": {"path": root}}, "runId": "r1", "select": "last", "layout": "anemoi"}


def test_transfer_learning_that_anemoi_passes_over_is_said():
    assert "no effect without load_weights_only" in remark(
        of("{training: {run_id: a, transfer_learning: true}}", "anemoi"), "training.transfer_learning"
    )


def test_a_fresh_run_needs_no_resource():
    migration = of("{training: {run_id: null, fork_run_id: null, load_weights_only: false}}", "anemoi")
    assert migration.resource is None
    assert remark(migration, "training.run_id").startswith("off")


def test_a_class_of_the_users_before_a_strategy_runs_in_process_alone():
    migration = migrated("anemoi/own")
    assert migration.resource is None
    assert "the loader imports none" in remark(migration, "training.checkpoint_pipeline.stages[0]")
    stages = yaml.safe_load(pipeline_text(migration, "own.yaml"))["stages"]
    assert stages == [
        {"_target_": "my_module.MySource", "path": "/pretrained/model.ckpt"},
        {"_target_": "my_module.MyLoader", "strict": False},
    ]


def test_a_second_strategy_is_not_written():
    loader = "_target_: anemoi.training.checkpoint.loaders.{}Loader"
    source = "_target_: anemoi.training.checkpoint.sources.LocalSource, path: /a"
    stages = f"[{{{source}}}, {{{loader.format('WeightsOnly')}}}, {{{loader.format('WarmStart')}}}]"
    migration = of(f"{{training: {{checkpoint_pipeline: {{stages: {stages}}}}}}}")
    assert [*map(list, spec(migration)["stages"])] == [["local"], ["weightsOnly"]]
    assert "a model is loaded once" in remark(migration, "training.checkpoint_pipeline.stages[2]")


# linnaeus


def test_linnaeus_credentials_become_a_secret_and_are_nowhere():
    migration = migrated("linnaeus/experiment")
    text = resource_text(migration, "experiment.yaml") + pipeline_text(migration, "experiment.yaml") + repr(migration)
    assert "VerySecret" not in text
    assert "003a5f" not in text
    assert spec(migration)["stages"][0]["named"]["bucket"]["s3"]["secretRef"] == "linnaeus-input-credentials"
    assert "kubectl create secret generic linnaeus-input-credentials" in remark(migration, "ENV.INPUT.BUCKET.APP_KEY")


def test_a_bucket_has_the_endpoint_that_is_given_and_else_one_where_nobody_answers():
    given = migrated("linnaeus/experiment", answers=Answers(endpoint="https://s3.eu-central-003.backblazeb2.com"))
    assert spec(given)["upload"]["to"]["s3"]["endpoint"] == "https://s3.eu-central-003.backblazeb2.com"
    assert "address" not in remark(given, "ENV.OUTPUT.BUCKET.REMOTE")
    assert "REGION" in spec(migrated("linnaeus/experiment"))["upload"]["to"]["s3"]["endpoint"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model.pth", {"named": {"name": "model.pth", "cacheDir": "/c"}}),
        ("/abs/model.pth", {"local": {"path": "/abs/model.pth"}}),
        ("https://example.org/model.pth", {"http": {"url": "https://example.org/model.pth"}}),
    ],
)
def test_linnaeus_names_paths_and_urls(name, source):
    migration = of(
        f"{{MODEL: {{PRETRAINED: '{name}'}}, TRAIN: {{AUTO_RESUME: false}}, ENV: {{INPUT: {{CACHE_DIR: /c}}}}}}"
    )
    assert spec(migration)["stages"][0] == source


@pytest.mark.parametrize(
    ("setting", "strategy"),
    [
        ("TRAIN: {AUTO_RESUME: false}", "warmStart"),
        ("TRAIN: {AUTO_RESUME: false, RESUME_SKIP_OPTIMIZER: true}", "weightsOnly"),
        ("TRAIN: {AUTO_RESUME: false}, EVAL_MODE: true", "weightsOnly"),
    ],
)
def test_linnaeus_goes_on_with_as_much_as_it_says(setting, strategy):
    migration = of(f"{{MODEL: {{RESUME: /a.pth, PRETRAINED: b.pth}}, {setting}}}")
    assert [*map(list, spec(migration)["stages"])] == [["local"], [strategy]]
    assert "is not read" in remark(migration, "MODEL.PRETRAINED")


@pytest.mark.parametrize(
    ("setting", "strategy"),
    [
        ("TRAIN: {}", "warmStart"),
        ("TRAIN: {RESUME_SKIP_OPTIMIZER: true}", "weightsOnly"),
        ("EVAL_MODE: true", "weightsOnly"),
    ],
)
@pytest.mark.parametrize("begun", ["PRETRAINED: b.pth", "RESUME: /a.pth", "NAME: m"])
def test_a_resumed_run_has_as_much_restored_as_one_that_is_named(setting, strategy, begun):
    own = "EXPERIMENT: {NAME: n}, ENV: {OUTPUT: {BASE_DIR: /o}}"
    migration = of(f"{{MODEL: {{{begun}}}, {own}, {setting}}}", "linnaeus")
    assert spec(migration)["resume"]["strategy"] == strategy
    assert "no effect" not in remark(migration, "TRAIN.RESUME_SKIP_OPTIMIZER") + remark(migration, "EVAL_MODE")


@pytest.mark.parametrize(("kept", "says"), [("true", "schedule comes back"), ("false", "scheduler=False")])
def test_whose_schedule_holds_in_a_resumed_run_is_said(kept, says):
    train = f"TRAIN: {{PRESERVE_CHECKPOINT_SCHEDULE: {kept}}}"
    migration = of(f"{{EXPERIMENT: {{NAME: n}}, ENV: {{OUTPUT: {{BASE_DIR: /o}}}}, {train}}}", "linnaeus")
    assert says in remark(migration, "TRAIN.PRESERVE_CHECKPOINT_SCHEDULE")


def test_automatic_resume_is_on_where_linnaeus_has_it_on():
    own = "EXPERIMENT: {PROJECT: p, GROUP: g, NAME: n}, ENV: {OUTPUT: {BASE_DIR: /o}}"
    said = of(f"{{MODEL: {{PRETRAINED: /a.pth}}, {own}}}")
    assert spec(said)["resume"]["from"]["run"]["root"] == {"local": {"path": "/o/p/g/n/checkpoints"}}
    assert "by default" in remark(said, "ENV.OUTPUT.BASE_DIR")
    assert "resume" not in spec(of(f"{{MODEL: {{PRETRAINED: /a.pth}}, TRAIN: {{AUTO_RESUME: false}}, {own}}}"))
    lost = of("{MODEL: {PRETRAINED: /a.pth}, TRAIN: {AUTO_RESUME: true}}")
    assert "resume" not in spec(lost)
    assert "its folder is not known" in remark(lost, "TRAIN.AUTO_RESUME")


def test_a_run_that_may_begin_with_random_weights_says_so():
    migration = of("{TRAIN: {AUTO_RESUME: true}, EXPERIMENT: {NAME: n}, ENV: {OUTPUT: {BASE_DIR: /o}}}")
    assert spec(migration)["onFailure"] == "Continue"
    assert [*map(list, spec(migration)["stages"])] == [["run"], ["warmStart"]]


def test_what_a_model_class_drops_is_written_where_it_is_repeated():
    handling = "{drop_params: [head., norm], drop_buffers: [rel.index], interpolate_rel_pos_bias: true, strict: true}"
    weights = f"{{PRETRAINED: /a.pth, pretrained_ckpt_handling_metadata: {handling}}}"
    migration = of(f"{{MODEL: {weights}, TRAIN: {{AUTO_RESUME: false}}}}")
    assert spec(migration)["stages"][1]["weightsOnly"] == {
        "strict": True,
        "exclude": ["head.", r"norm\b", r"rel\.index"],
        "interpolate": ["relative_position_bias_table$"],
    }


# Noether


@pytest.mark.parametrize(
    ("given", "select", "says"),
    [
        ("", "latest", ""),
        ("resume_checkpoint: E10", "E10", ""),
        ("resume_checkpoint: {update: 100}", "U100", ""),
        ("resume_checkpoint: E10_U100_S200", "E10_U100_S200", "which Noether refuses"),
        ("resume_checkpoint: Ebest", "Ebest", "ValueError"),
        ("resume_checkpoint: best.accuracy", "best.accuracy", "weights alone"),
    ],
)
def test_noether_goes_on_from_what_is_selected(given, select, says):
    migration = of(f"{{resume_run_id: r, {given}}}", "noether")
    assert spec(migration)["stages"][0]["run"]["select"] == select
    assert says in remark(migration, "resume_checkpoint")


def test_a_latest_without_an_optimizer_is_warned_of():
    saving = "callbacks: [{kind: noether.core.callbacks.CheckpointCallback, save_latest_optim: %s}]"
    assert "nothing can go on from it" in remark(of(f"{{resume_run_id: r, {saving % 'false'}}}"), "callbacks[0]")
    assert "nothing can go on" not in str(of(f"{{resume_run_id: r, {saving % 'true'}}}").remarks)


def test_an_initializer_that_resumes_or_reads_a_file():
    initializer = "{model: {initializers: [{kind: noether.core.initializers.%s, %s}]}}"
    resumed = spec(of(initializer % ("ResumeInitializer", "run_id: r, model_name: m")))
    assert [*map(list, resumed["stages"])] == [["run"], ["warmStart"]]
    read_one = spec(of(initializer % ("CheckpointInitializer", "path: /a_model.th")))
    assert read_one["stages"] == [{"local": {"path": "/a_model.th"}}, {"weightsOnly": {}}]


# Stack-Wise


def test_stackwise_restores_what_the_program_calls():
    assert spec(of("{restore_from_checkpoint: /c/progressive_stack_0.pt}"))["stages"] == [
        {"local": {"path": "/c/progressive_stack_0.pt"}}, {"warmStart": {"parts": ["stacks"]}},
    ]  # fmt: skip
    rack = spec(of("{load_rack: /c/rack.pt}"))["stages"]
    assert (rack[0], list(rack[1])) == ({"local": {"path": "/c/rack.pt"}}, ["weightsOnly"])


def test_stackwise_newest_is_a_guess_that_is_said():
    migration = migrated("stackwise/config")
    assert "name another call" in remark(migration, "training.checkpoint_dir")
    named = migrated("stackwise/config", "load_rack=rack.pt")
    assert spec(named)["stages"][0] == {"local": {"path": "rack.pt"}}


# All of them


def test_an_address_in_s3_is_in_the_service_that_is_given():
    text = "{system: {input: {warm_start: 's3://models/runs/last.ckpt'}}}"
    source = {"bucket": "models", "key": "runs/last.ckpt"}
    assert spec(of(text))["stages"][0] == {"s3": source}
    given = spec(of(text, endpoint="https://minio.example"))["stages"][0]
    assert given == {"s3": {**source, "endpoint": "https://minio.example"}}


def test_files_on_a_claim_are_where_a_pod_has_them():
    answers = Answers(name="mine", claim=Claim("models", "/data"))
    migration = migrated("linnaeus/resume", answers=answers)
    assert migration.document["metadata"] == {"name": "mine"}
    assert spec(migration)["stages"][0]["named"]["cacheDir"] == "/preheat/checkpoints"
    assert spec(migration)["volume"] == {"persistentVolumeClaim": {"claimName": "models"}}
    assert "machine that trains" not in str(migration.remarks)


@pytest.mark.parametrize(
    "key",
    ["training.checkpoint_pipeline.stages[1].token", "MODEL.RESUME", "ENV.INPUT.BUCKET.SECRET_KEY", "load_rack"],
)
def test_no_credential_is_repeated_wherever_it_is(key):
    secret = "https://me:geheim@example.org/a?X-Amz-Signature=geheim"
    document = {
        "MODEL": {"RESUME": secret}, "load_rack": secret,
        "ENV": {"INPUT": {"BUCKET": {"SECRET_KEY": "geheim", "ENABLED": True}}},
        "training": {"checkpoint_pipeline": {"stages": [
            {"_target_": "anemoi.training.checkpoint.sources.LocalSource", "path": "/a"},
            {"_target_": "my.Loader", "token": "geheim"},
        ]}},
    }  # fmt: skip
    for system in ("anemoi", "linnaeus", "noether", "stackwise"):
        migration, _ = migrate(document, system)
        assert "geheim" not in repr(migration)
        assert "geheim" not in (resource_text(migration, "c") if migration.resource else "")
        assert "geheim" not in pipeline_text(migration, "c")
        assert "credential" in remark(migration, key)


def test_an_interpolation_that_nobody_resolved_is_said():
    document = yaml.safe_load("{load_rack: '${root}/rack.pt'}")
    migration, _ = migrate(document, unresolved=frozenset({"load_rack"}))
    assert "could not be resolved" in remark(migration, "load_rack")
