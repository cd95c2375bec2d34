"""Names, spellings and the answers to wrong ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.catalog import ComponentCatalog, built_in, components
from preheat.construction import camel_case, snake_case
from preheat.convert import Convert
from preheat.errors import CheckpointConfigError
from preheat.modifiers import (
    FreezingModifier,
    LoRAModifier,
    PrecisionModifier,
    PruningModifier,
    QuantizationModifier,
    ResetModifier,
)
from preheat.names import Rename
from preheat.sources import HTTPSource, LocalSource, S3Source
from preheat.spelling import build, spell
from preheat.strategies import ColdStartLoader, TransferLearningLoader, WarmStartLoader, WeightsOnlyLoader
from preheat.verify import Verify

STAGES = [
    LocalSource("/a.ckpt"),
    HTTPSource("https://models.example.com/a.ckpt", secret_ref="token"),
    S3Source("models", "a.ckpt", region="eu-west-1", addressing="path"),
    Verify(sha256="0" * 64, finite=False),
    Convert(exclude=["^head"], rename=[Rename("a(.)", r"b\1"), Rename("c", "")], add_prefix="net.", dtype="bfloat16"),
    WeightsOnlyLoader(strict=False),
    TransferLearningLoader(skip_mismatched=False),
    ColdStartLoader(),
    ColdStartLoader(strict=False, reset_layers=("classifier", "*.head")),
    WarmStartLoader(strict=False),
    FreezingModifier(("encoder", "processor.0")),
    ResetModifier(("head",)),
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_a_stage_survives_being_spelled_and_built(stage):
    assert build(spell(stage)) == stage


def test_a_resource_spells_stages_in_camel_case():
    stage = build({"transferLearning": {"skipMismatched": False}})
    assert stage == TransferLearningLoader(skip_mismatched=False)


def test_a_file_may_name_a_class_path():
    stage = build({"_target_": "preheat.sources.LocalSource", "path": "/a.ckpt"})
    assert stage == LocalSource("/a.ckpt")


@pytest.mark.parametrize(
    ("target", "parameters", "stage"),
    [
        ("sources.S3Source", {"bucket": "b", "key": "k", "region": "us-east-1"}, S3Source("b", "k", "us-east-1")),
        ("sources.HTTPSource", {"url": "https://a.example/x"}, HTTPSource("https://a.example/x")),
        ("loaders.WeightsOnlyLoader", {"strict": False}, WeightsOnlyLoader(strict=False)),
        ("loading.strategies.TransferLearningLoader", {"skip_mismatched": True}, TransferLearningLoader()),
        ("loaders.WarmStartLoader", {}, WarmStartLoader()),
        ("loaders.ColdStartLoader", {"strict": False, "reset_layers": ["c"]}, ColdStartLoader(False, ("c",))),
        ("modifiers.FreezingModifier", {"layers": ["encoder"]}, FreezingModifier(("encoder",))),
        ("modifiers.LoRAModifier", {"rank": 4, "targets": ["q"]}, LoRAModifier(4, targets=("q",))),
        ("modifiers.PrecisionModifier", {"dtype": "bfloat16"}, PrecisionModifier("bfloat16")),
        ("modifiers.QuantizationModifier", {"layers": ["encoder"]}, QuantizationModifier(("encoder",))),
        ("modifiers.PruningModifier", {"layers": ["encoder"], "amount": 0.5}, PruningModifier(("encoder",), 0.5)),
    ],
)
def test_class_paths_of_anemois_guide_resolve_without_anemoi(target, parameters, stage):
    assert build({"_target_": f"anemoi.training.checkpoint.{target}", **parameters}) == stage


def test_an_unknown_component_lists_the_known_ones_and_the_nearest():
    with pytest.raises(CheckpointConfigError, match=r"'weight_only'; did you mean 'weights_only'\? Known: .*freezing"):
        build({"weightOnly": {}})


def test_an_unknown_parameter_lists_the_known_ones_and_the_nearest():
    with pytest.raises(CheckpointConfigError, match=r"'bukket'; did you mean 'bucket'\?"):
        build({"s3": {"bukket": "a", "key": "b"}})


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({}, "one component per stage, found none"),
        ({"s3": {}, "http": {}}, "one component per stage, found s3, http"),
        ({"s3": {"bucket": "b"}}, "key"),
        ("s3", "is not a stage"),
        ({"freezing": {"layers": "encoder"}}, "give a list"),
        ({"freezing": {"layers": []}}, "must not be empty"),
        ({"freezing": {"layers": [""]}}, "must not be empty"),
        ({"reset": {"layers": []}}, "must not be empty"),
        ({"coldStart": {"resetLayers": "classifier"}}, "give a list"),
        ({"coldStart": {"resetLayers": [""]}}, "must not be empty"),
        ({"http": {"url": "https://user:secret@host.example/x"}}, "does not match"),
        ({"http": {"url": "ftp://host.example/x"}}, "does not match"),
        ({"verify": {"sha256": "abc"}}, "does not match"),
        ({"convert": {"exclude": "head"}}, "give a list"),
        ({"convert": {"exclude": ["head("]}}, r"'head\(' is not a regular expression"),
        ({"convert": {"select": ["a{99999999999}"]}}, "is not a regular expression"),
        ({"convert": {"select": ["a" * 257]}}, "longer than the allowed 256"),
        ({"convert": {"select": ["a"] * 65}}, "longer than the allowed 64"),
        ({"convert": {"rename": {"pattern": "a", "replacement": "b"}}}, "give a list"),
        ({"convert": {"rename": ["ab"]}}, "give a list"),
        ({"convert": {"rename": [{"pattern": "a", "to": "b"}]}}, "unknown parameter 'to'"),
        ({"convert": {"rename": [{"pattern": "a", "replacement": "\\1"}]}}, "cannot replace"),
        ({"convert": {"rename": [{"pattern": "a", "replacement": "\\g<x>"}]}}, "cannot replace"),
        ({"convert": {"dtype": "float8"}}, "'float8' is none of float32, float16, bfloat16"),
        ({"_target_": "no.such.module.Stage"}, "cannot import"),
        ({"_target_": "anemoi.training.checkpoint.loaders.MagicLoader"}, "has no equivalent"),
        ({"_target_": "anemoi.training.checkpoint.sources.S3Source", "url": "s3://b/k"}, "'url'.*`preheat migrate`"),
    ],
)
def test_a_wrong_stage_says_what_is_wrong(stage, words):
    with pytest.raises(CheckpointConfigError, match=words):
        build(stage)


def test_a_password_in_a_refused_url_is_not_repeated():
    with pytest.raises(CheckpointConfigError, match=r"https://\*\*\*@host\.example") as caught:
        build({"http": {"url": "https://user:hunter2@host.example/x"}})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "stage",
    [
        {"http": {"url": "https://host.example/a file?sig=hunter2"}},
        {"verify": {"signature": {"publicKey": "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----"}}},
    ],
    ids=["a signed URL", "a private key"],
)
def test_what_may_be_secret_in_a_refused_text_is_not_repeated(stage):
    with pytest.raises(CheckpointConfigError, match="does not match") as caught:
        build(stage)
    assert "hunter2" not in str(caught.value)


def test_every_family_is_listed():
    assert ComponentCatalog.list_sources() == [
        "fallback",
        "fsspec",
        "http",
        "hugging_face",
        "local",
        "merge",
        "named",
        "run",
        "s3",
    ]
    assert ComponentCatalog.list_loaders() == ["cold_start", "transfer_learning", "warm_start", "weights_only"]
    modifiers = ["custom", "freezing", "lora", "precision", "prune", "quantize", "reset"]
    assert ComponentCatalog.list_modifiers() == modifiers


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """An installed package that registers `shelf`, whose module is as it is given."""

    def install(module: str) -> None:
        (tmp_path / "my_shelf.py").write_text(dedent(module))
        (tmp_path / "my_shelf-1.0.dist-info").mkdir()
        (tmp_path / "my_shelf-1.0.dist-info" / "METADATA").write_text("Name: my-shelf\nVersion: 1.0\n")
        registered = "[preheat.components]\nshelf = my_shelf:ShelfSource\n"
        (tmp_path / "my_shelf-1.0.dist-info" / "entry_points.txt").write_text(registered)
        monkeypatch.syspath_prepend(tmp_path)
        components.cache_clear()

    yield install
    components.cache_clear()
    sys.modules.pop("my_shelf", None)


SHELF = """
    from dataclasses import dataclass
    from preheat.errors import CheckpointNotFoundError
    from preheat.stage import CheckpointSource

    @dataclass(frozen=True)
    class ShelfSource(CheckpointSource):
        place: int = 0
        uri = "shelf"

        def open(self, patience):
            raise CheckpointNotFoundError(f"there is nothing on place {self.place} of the shelf")
"""


def test_a_component_of_another_package_is_known_in_its_family(package: Callable[[str], None]) -> None:
    package(SHELF)
    assert "shelf" in ComponentCatalog.list_sources()
    assert "shelf" not in ComponentCatalog.list_loaders() + ComponentCatalog.list_modifiers()
    stage = build({"shelf": {"place": 3}})
    assert build({"_target_": ComponentCatalog.get_source_target("shelf"), "place": 3}) == stage
    assert spell(stage) == {"shelf": {"place": 3}}


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import not_there", "cannot be imported: No module named 'not_there'"),
        ("", "cannot be imported: .*ShelfSource"),
        ("ShelfSource = 3", "is no subclass of preheat.PipelineStage"),
    ],
)
def test_a_package_that_is_broken_is_named_and_disturbs_no_component_of_ours(
    package: Callable[[str], None], module: str, why: str
) -> None:
    """Anemoi's catalog is empty then, without a word."""
    package(module)
    with pytest.raises(CheckpointConfigError, match=f"component 'shelf' of the package my-shelf, .*{why}"):
        ComponentCatalog.list_sources()
    assert build({"local": {"path": "/a"}}) == LocalSource("/a")
    assert build({"_target_": "anemoi.training.checkpoint.sources.LocalSource", "path": "/a"}) == LocalSource("/a")


def test_a_listed_target_builds_the_class_it_names():
    target = ComponentCatalog.get_loader_target("weights_only")
    assert build({"_target_": target}) == WeightsOnlyLoader()


@pytest.mark.parametrize("name", sorted(built_in()))
def test_names_survive_both_cases(name):
    assert snake_case(camel_case(name)) == name


@given(st.lists(st.from_regex(r"[a-z]{2,6}", fullmatch=True), min_size=1, max_size=4).map("_".join))
def test_any_snake_case_name_survives_camel_case(name):
    assert snake_case(camel_case(name)) == name
