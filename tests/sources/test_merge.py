"""Several checkpoints as one: what is taken, what is refused, and who gave what."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from formats.samples import saved
from formats.test_shards import save_sharded
from loader import loader_process
from rich.console import Console
from safetensors.torch import load_file, save
from sources.fault_server import FaultServer

import preheat
from preheat import CheckpointContext, CheckpointPipeline, inspect
from preheat.blob import Patience
from preheat.bundle.data import open_bundle
from preheat.bundle.manifest import MergedFacts
from preheat.bundle.origins import told_of
from preheat.bundle.store import Store
from preheat.errors import (
    CheckpointConfigError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointNotFoundError,
    NothingMatchedError,
    SourceChangedError,
    TruncatedError,
)
from preheat.formats import read_index
from preheat.prepare import Outcome, Pin, prepare
from preheat.shim.reports.table import table
from preheat.sources.http import HTTPSource
from preheat.sources.local import LocalSource
from preheat.sources.merge import MergedSource, MergeSource
from preheat.sources.run import RunSource
from preheat.sources.s3 import S3Source
from preheat.spec import parse
from preheat.spelling import build, spell
from preheat.verbs.forecast import plan_pipeline
from preheat_operator.observation import observe_check

STEM = {"stem.weight": torch.randn(40, 30), "head.weight": torch.randn(700, 500)}
BLOCKS = {f"blocks.{n}.weight": torch.randn(50, 60) for n in range(4)} | {"token": torch.randn(1, 60)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.randn(40, 30)}}, "param_groups": [{"params": [0], "lr": 0.1}]}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/stem.ckpt", saved({"state_dict": STEM, "optimizer_states": [OPTIMIZER], "epoch": 3}))
        running.serve("/blocks.safetensors", save(BLOCKS, {"format": "pt"}))
        yield running


def parts(origin: str) -> list[dict[str, Any]]:
    return [
        {"from": {"http": {"url": f"{origin}/stem.ckpt"}}, "select": ["^stem"]},
        {"from": {"http": {"url": f"{origin}/blocks.safetensors"}}, "select": ["^blocks"], "addPrefix": "encoder."},
    ]


def merge(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"merge": {"sources": list(parts)}}


def made(volume: Path, *stages: Mapping[str, Any], pin: Pin | None = None) -> Outcome:
    return prepare(parse({"stages": list(stages)}), Store(volume), "test", pin=pin)


def manifest(outcome: Outcome) -> dict[str, Any]:
    return json.loads((outcome.folder / "manifest.json").read_text())


def merged_from(*files: tuple[str, Mapping[str, Any]]) -> MergeSource:
    return MergeSource(tuple(MergedSource(from_=LocalSource(path), **given) for path, given in files))


def written(folder: Path, **files: Mapping[str, torch.Tensor]) -> list[str]:
    for name, tensors in files.items():
        torch.save(dict(tensors), folder / f"{name}.pt")
    return [str(folder / f"{name}.pt") for name in files]


# What comes of it


def test_one_checkpoint_comes_of_two_and_only_what_is_taken_travels(server: FaultServer, tmp_path: Path) -> None:
    outcome = made(tmp_path, merge(*parts(server.origin)), {"weightsOnly": {}})
    found = load_file(outcome.folder / "model.safetensors")
    wanted = {"stem.weight": STEM["stem.weight"]} | {f"encoder.{n}": t for n, t in BLOCKS.items() if "blocks" in n}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    selected = sum(tensor.nbytes for tensor in wanted.values())
    assert outcome.manifest.totals.selected_bytes == selected
    assert server.sent == outcome.fetched_bytes < selected + 120_000 < STEM["head.weight"].nbytes


def test_the_manifest_says_which_tensor_came_from_where(server: FaultServer, tmp_path: Path) -> None:
    outcome = made(tmp_path, merge(*parts(server.origin)), {"weightsOnly": {}})
    document = manifest(outcome)
    one, other = document["source"]["merged"]
    assert (one["uri"], one["format"], one["layout"], one["tensors"]) == (
        f"{server.origin}/stem.ckpt", "torch-zip", "state_dict", 1,
    )  # fmt: skip
    assert (other["uri"], other["format"], other["tensors"]) == (
        f"{server.origin}/blocks.safetensors",
        "safetensors",
        4,
    )
    assert document["source"]["uri"] == f"{one['uri']} + {other['uri']}"
    assert document["source"]["version"] == f"{one['version']} + {other['version']}"
    assert document["origins"] == {"stem.weight": 0} | {f"encoder.blocks.{n}.weight": 1 for n in range(4)}
    assert (document["left"]["stateTensors"], document["left"]["excludedTensors"]) == (1, 2)
    assert document["left"]["excludedBytes"] == STEM["head.weight"].nbytes + BLOCKS["token"].nbytes
    with closing(open_bundle(outcome.folder)) as data:
        assert [each.tensors for each in data.merged] == [1, 4]
        assert data.origins["stem.weight"] == 0


def test_a_file_of_one_checkpoint_says_nothing_of_a_merge(tmp_path: Path) -> None:
    [path] = written(tmp_path, one=STEM)
    document = manifest(made(tmp_path / "volume", {"local": {"path": path}}, {"weightsOnly": {}}))
    assert "merged" not in document["source"]
    assert "origins" not in document


def test_the_same_source_may_give_a_tensor_two_names_and_is_read_once(server: FaultServer, tmp_path: Path) -> None:
    blocks = {"http": {"url": f"{server.origin}/blocks.safetensors"}}
    again = [{"from": blocks, "select": ["^token$"], "rename": [{"pattern": "^token$", "replacement": name}]}
             for name in ("token_1", "token_2")]  # fmt: skip
    outcome = made(tmp_path, merge(*again), {"weightsOnly": {}})
    document = manifest(outcome)
    assert len(document["source"]["merged"]) == 1
    assert document["aliases"] == {"token_2": "token_1"}, "one set of bytes under two names"
    assert outcome.manifest.totals.selected_bytes == BLOCKS["token"].nbytes
    model = torch.nn.Module()
    model.token_1, model.token_2 = (torch.nn.Parameter(torch.zeros(1, 60)) for _ in range(2))
    done = CheckpointPipeline([merge(*again), {"weightsOnly": {}}]).execute_sync(CheckpointContext(model=model))
    done.checkpoint_data.close()
    assert torch.equal(model.token_1, BLOCKS["token"])
    assert torch.equal(model.token_2, BLOCKS["token"])


def test_files_of_every_kind_can_be_merged_folders_too(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    save_sharded(tmp_path / "shards", {f"layer.{n}": torch.randn(9, n + 1) for n in range(5)})
    dcp.save({"model": {"deep.weight": torch.arange(24.0).view(6, 4)}}, checkpoint_id=tmp_path / "distributed",
             no_dist=True)  # fmt: skip
    [old] = written(tmp_path, old={"old.weight": torch.randn(7)})
    torch.save({"older.weight": torch.ones(3)}, tmp_path / "older.pt", _use_new_zipfile_serialization=False)
    folders = [str(tmp_path / name) for name in ("shards", "distributed", "older.pt")]
    source = merged_from((old, {}), *((path, {}) for path in folders))
    outcome = made(tmp_path / "volume", spell(source), {"verify": {"finite": True}}, {"weightsOnly": {}})
    found = load_file(outcome.folder / "model.safetensors")
    assert torch.equal(found["deep.weight"], torch.arange(24.0).view(6, 4))
    assert torch.equal(found["old.weight"], torch.load(old)["old.weight"])
    assert torch.equal(found["older.weight"], torch.ones(3))
    assert sum(name.startswith("layer.") for name in found) == 5
    assert list(manifest(outcome)["origins"].values()) == [0, *[1] * 5, 2, 3]


def test_an_empty_tensor_at_the_end_of_a_file_is_from_that_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(save({name: torch.ones(2), f"{name}.empty": torch.ones(0)}))
    source = merged_from(*((str(tmp_path / f"{name}.safetensors"), {}) for name in "ab"))
    blob = source.open(Patience())
    index = read_index(blob)
    assert {name: index.origin_of(name) for name in index.tensors} == {"a": 0, "a.empty": 0, "b": 1, "b.empty": 1}
    blob.close()


def test_averages_are_taken_of_the_source_that_asks_for_them(tmp_path: Path) -> None:
    averages = {name: tensor + 1 for name, tensor in STEM.items()}
    torch.save({"state_dict": STEM, "state_dict_ema": averages}, tmp_path / "stem.pt")
    [other] = written(tmp_path, blocks=BLOCKS)
    source = merged_from((str(tmp_path / "stem.pt"), {"ema": "auto", "select": ["^stem"]}), (other, {}))
    found = load_file(made(tmp_path / "v", spell(source), {"weightsOnly": {}}).folder / "model.safetensors")
    assert torch.equal(found["stem.weight"], averages["stem.weight"])


def test_a_conversion_of_the_whole_keeps_in_mind_who_gave_what(tmp_path: Path) -> None:
    source = spell(merged_from(*((path, {}) for path in written(tmp_path, stem=STEM, blocks=BLOCKS))))
    convert = {"exclude": ["^head"], "rename": [{"pattern": "^", "replacement": "net."}], "dtype": "bfloat16"}
    document = manifest(made(tmp_path / "volume", source, {"convert": convert}, {"weightsOnly": {}}))
    assert document["origins"]["net.stem.weight"] == 0
    assert document["origins"]["net.token"] == 1
    assert [each["tensors"] for each in document["source"]["merged"]] == [1, 5]
    assert document["tensors"]["net.token"]["dtype"] == "BF16"


def test_parts_of_a_model_come_from_different_runs(tmp_path: Path) -> None:
    """What Anemoi's users ask for: encoder and processor of one run, the decoder of another, each its newest."""
    sizes = {"encoder": (8, 4), "processor": (4, 4), "decoder": (4, 8)}
    runs = {}
    for run in ("a", "b"):
        runs[run] = torch.nn.ModuleDict({name: torch.nn.Linear(*size) for name, size in sizes.items()})
        (tmp_path / run).mkdir()
        weights = {f"model.{name}": tensor for name, tensor in runs[run].state_dict().items()}
        torch.save({"state_dict": weights, "pytorch-lightning_version": "2.6.0", "epoch": 3, "global_step": 30,
                    "callbacks": {}, "loops": {}}, tmp_path / run / "last.ckpt")  # fmt: skip
    root = {"local": {"path": str(tmp_path)}}
    names = {"a": [r"^model\.encoder", r"^model\.processor"], "b": [r"^model\.decoder"]}
    parts = [{"from": {"run": {"root": root, "runId": run, "select": "last"}}, "select": names[run],
              "stripPrefix": ["model."]} for run in names]  # fmt: skip
    model = torch.nn.ModuleDict({name: torch.nn.Linear(*size) for name, size in sizes.items()})
    done = CheckpointPipeline([merge(*parts), {"weightsOnly": {}}]).execute_sync(CheckpointContext(model=model))
    for name, run in (("encoder", "a"), ("processor", "a"), ("decoder", "b")):
        assert torch.equal(model[name].weight, runs[run][name].weight)
    assert done.metadata["origins"]["decoder.weight"] == 1
    assert [each.uri for each in done.checkpoint_data.merged] == [str(tmp_path / run / "last.ckpt") for run in "ab"]


def test_what_remote_sources_gave_to_a_merge_is_kept_in_a_cache(server: FaultServer, tmp_path: Path) -> None:
    [local] = written(tmp_path, blocks=BLOCKS)
    remote = {"http": {"url": f"{server.origin}/stem.ckpt"}}
    stages = [merge({"from": remote}, {"from": {"local": {"path": local}}}), {"transferLearning": {}}]
    for asked in (True, False):
        before = server.sent
        model = torch.nn.ModuleDict({"stem": torch.nn.Linear(30, 40, bias=False)})
        pipeline = CheckpointPipeline(stages, cache_dir=tmp_path / "cache")
        done = pipeline.execute_sync(CheckpointContext(model=model))
        assert torch.equal(model["stem"].weight, STEM["stem.weight"])
        assert done.metadata["origins"]["stem.weight"] == 0
        assert (server.sent - before > STEM["head.weight"].nbytes) is asked


# Who gave what, for people


@pytest.mark.parametrize("bundle", [False, True], ids=["in one process", "from a bundle"])
def test_the_report_counts_by_source_and_tells_each_tensors(
    bundle: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, stem=STEM, blocks={"token": BLOCKS["token"]})
    stages = [spell(merged_from(*((path, {}) for path in paths))), {"transferLearning": {"addPrefix": "net."}}]
    model = torch.nn.Module()
    model.net = torch.nn.ModuleDict({"stem": torch.nn.Linear(30, 40, bias=False)})
    model.net.token = torch.nn.Parameter(torch.zeros(1, 60))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    if bundle:
        monkeypatch.setenv("PREHEAT_BUNDLE", str(made(tmp_path / "volume", *stages).folder))
    report = preheat.apply(model, pipeline=None if bundle else stages)
    assert [(each["uri"], each["loaded"], each["skipped"]) for each in report.by_origin()] == [
        (paths[0], 1, 1), (paths[1], 1, 0),
    ]  # fmt: skip
    assert f"1 of {paths[0]}, 1 of {paths[1]}" in report.line()
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["origins"] == {"net.stem.weight": 0, "net.head.weight": 0, "net.token": 1}
    assert [each["loaded"] for each in document["merged"]] == [1, 1]
    console = Console(width=400)
    with console.capture() as said:
        console.print(table(document))
    assert f"not in the model, of {paths[0]}" in said.get()


def test_plan_and_inspection_show_it_without_payload(server: FaultServer) -> None:
    source = MergeSource(tuple(parts(server.origin)))
    forecast = plan_pipeline(parse({"stages": [spell(source), {"weightsOnly": {}}]}))
    assert [each.tensors for each in forecast.merged] == [1, 4]
    assert forecast.to_json()["merged"][0]["uri"] == f"{server.origin}/stem.ckpt"
    assert (forecast.tensors, forecast.excluded_tensors, forecast.left_tensors) == (5, 2, 1)
    found = inspect(source)
    assert (found.layout, len(found.tensors), found.parameters) == ("merge", 5, 1200 + 4 * 3000)
    assert found.state["sources"][0]["epoch"] == 3
    assert server.sent < 250_000 < STEM["head.weight"].nbytes


@pytest.mark.parametrize("module", ["preheat.source_check", "preheat.loader"])
def test_check_and_loader_tell_the_status_how_many_are_from_each(
    module: str, server: FaultServer, tmp_path: Path
) -> None:
    stages = [merge(*parts(server.origin)), {"weightsOnly": {}}]
    variables = loader_process.environment(stages, tmp_path / "volume")
    done = subprocess.run([sys.executable, "-m", module], env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = loader_process.message_path(tmp_path / "volume", loader_process.POD).read_text()
    end = {"terminated": {"exitCode": 0, "message": text, "finishedAt": "2026-01-01T00:00:00Z"}}
    pod = {"status": {"containerStatuses": [{"name": "preheat-loader", "state": end}]}, "metadata": {"name": "a"}}
    success = observe_check(pod).success
    assert success
    assert [(each["uri"], each["tensors"]) for each in success.source["merged"]] == [
        (f"{server.origin}/stem.ckpt", 1), (f"{server.origin}/blocks.safetensors", 4),
    ]  # fmt: skip


def test_what_the_status_is_told_is_bounded_however_long_the_uris_are() -> None:
    facts = [MergedFacts(f"s3://bucket/{'k' * 900}/{n}", f"versionId:{'v' * 200}", 1, "f", "l", 1) for n in range(8)]
    said = told_of(facts)
    assert len(json.dumps(said)) < 2000
    assert said["merged"][3]["uri"].startswith("...k")
    assert said["merged"][3]["uri"].endswith("/3")
    uris = MergeSource(tuple(MergedSource(from_=S3Source("bucket", f"{'k' * 300}/{n}")) for n in range(8))).uri
    assert len(uris) < 1000
    assert uris.endswith(" + 6 more")


# One version of each


def test_each_source_is_held_to_the_version_that_was_checked(server: FaultServer, tmp_path: Path) -> None:
    stages = [merge(*parts(server.origin)), {"weightsOnly": {}}]
    forecast = plan_pipeline(parse({"stages": stages}))
    server.serve("/blocks.safetensors", save({name: tensor + 1 for name, tensor in BLOCKS.items()}))
    with pytest.raises(SourceChangedError):
        made(tmp_path, *stages, pin=Pin(forecast.uri, forecast.version))


def test_a_version_that_stays_readable_is_asked_for_source_by_source() -> None:
    source = MergeSource(
        (MergedSource(from_=S3Source("a", "k")), MergedSource(from_=HTTPSource("https://h/k")),
         MergedSource(from_=S3Source("a", "k"), add_prefix="x."))
    )  # fmt: skip
    pinned = source.at("s3://a/k + https://h/k", 'versionId:7 + etag:"1"')
    assert pinned == MergeSource(
        (MergedSource(from_=S3Source("a", "k", version_id="7")), MergedSource(from_=HTTPSource("https://h/k")),
         MergedSource(from_=S3Source("a", "k", version_id="7"), add_prefix="x."))
    )  # fmt: skip
    assert source.at("s3://a/k + https://h/k", "folder:123") == source


def test_a_run_is_held_to_the_checkpoint_that_was_checked(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    torch.save({"model": {"stem.weight": torch.ones(3)}}, tmp_path / "run" / "ckpt_epoch_1.pth")
    [other] = written(tmp_path, blocks=BLOCKS)
    run = {"run": {"root": {"local": {"path": str(tmp_path / "run")}}}}
    stages = [merge({"from": run}, {"from": {"local": {"path": other}}}), {"weightsOnly": {}}]
    found = plan_pipeline(parse({"stages": stages}))
    torch.save({"model": {"stem.weight": torch.zeros(3)}}, tmp_path / "run" / "ckpt_epoch_2.pth")
    for pin, value in ((Pin(found.uri, found.version), 1), (None, 0)):
        outcome = made(tmp_path / "volume", *stages, pin=pin)
        assert load_file(outcome.folder / "model.safetensors")["stem.weight"][0] == value


# What is refused


def test_two_that_give_the_same_name_are_both_named(tmp_path: Path) -> None:
    paths = written(tmp_path, one=STEM, other={**BLOCKS, **STEM})
    with pytest.raises(CheckpointIncompatibleError) as caught:
        inspect(merged_from(*((path, {}) for path in paths)))
    assert str(caught.value) == (
        f"sources[0] ({paths[0]}) and sources[1] ({paths[1]}) both give stem.weight, head.weight. "
        "Select or exclude in one of them, or tell them apart with addPrefix or rename"
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"select": ["^stem", "^blocks"]}, r"MergedSource.select '\^blocks' matches none of 2 tensors, such as stem"),
        ({"exclude": ["weight"]}, "select and exclude leave none of the 2 tensors"),
        ({"strip_prefix": ["module."]}, "stripPrefix 'module.' matches none"),
    ],
    ids=["select", "exclude", "stripPrefix"],
)
def test_a_source_of_which_nothing_matches_is_an_error_that_names_it(
    given: Mapping[str, Any], says: str, tmp_path: Path
) -> None:
    one, other = written(tmp_path, one=BLOCKS, other=STEM)
    with pytest.raises(NothingMatchedError, match=says) as caught:
        inspect(merged_from((one, {}), (other, given)))
    assert str(caught.value).startswith(f"sources[1], {other}: ")


def test_a_source_that_is_gone_or_damaged_is_named(tmp_path: Path) -> None:
    one, other = written(tmp_path, one=STEM, other=BLOCKS)
    Path(other).write_bytes(Path(other).read_bytes()[:-100])
    with pytest.raises(TruncatedError, match=r"other\.pt: the file ends"):
        inspect(merged_from((one, {}), (other, {})))
    Path(other).unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"other\.pt"):
        inspect(merged_from((one, {}), (other, {})))


def test_damaged_bytes_are_told_with_the_file_that_they_are_in(tmp_path: Path) -> None:
    one, other = written(tmp_path, one=STEM, other={"token": torch.zeros(1000)})
    content = Path(other).read_bytes()
    zeros = content.index(bytes(4000))
    Path(other).write_bytes(content[:zeros] + b"\1" + content[zeros + 1 :])
    with pytest.raises(CheckpointError, match=r"CRC-32") as caught:
        made(tmp_path / "volume", spell(merged_from((one, {}), (other, {}))), {"weightsOnly": {}})
    assert "other.pt: " in str(caught.value)


def test_a_warm_start_and_averages_of_the_whole_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": STEM, "optimizer": OPTIMIZER}, tmp_path / "stem.pt")
    source = spell(merged_from((str(tmp_path / "stem.pt"), {})))
    for strategy, says in (
        ({"warmStart": {}}, "a warm start goes on with one training, a merge is of several"),
        ({"weightsOnly": {"ema": "auto"}}, "name ema in the sources of merge"),
    ):
        with pytest.raises(CheckpointConfigError, match=says):
            made(tmp_path / "volume", source, strategy)
        model = torch.nn.ModuleDict({"stem": torch.nn.Linear(30, 40, bias=False)})
        with pytest.raises(CheckpointConfigError, match=says):
            CheckpointPipeline([source, strategy]).execute_sync(CheckpointContext(model=model, optimizer=object()))


@pytest.mark.parametrize(
    "verify",
    [
        {"sha256": "0" * 64},
        {"signature": {"publicKey": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}},
    ],
    ids=["digest", "signature"],
)
def test_what_vouches_for_one_file_is_refused(verify: Mapping[str, Any], tmp_path: Path) -> None:
    source = merged_from(*((path, {}) for path in written(tmp_path, stem=STEM, blocks=BLOCKS)))
    with pytest.raises(CheckpointConfigError, match="what is merged has no digest or signature of its own"):
        made(tmp_path / "volume", spell(source), {"verify": verify}, {"weightsOnly": {}})


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ([], "must not be empty"),
        ({"from": {}}, "give a list"),
        ([{"select": ["a"]}], r"sources\[0\]: .* has no source"),
        (
            [{"from": {"local": {"path": "/a"}}, "elect": ["a"]}],
            r"sources\[0\]: unknown parameter 'elect'; did you mean",
        ),
        ([{"from": {"s3": {"bucket": "b"}}}], r"sources\[0\]: from\.s3: .*key"),
        ([{"from": {"verify": {}}}], r"sources\[0\]: from: Verify is no source"),
        ([{"from": {"merge": {"sources": [{"from": {"local": {"path": "/a"}}}]}}}], "a merge in a merge"),
        ([{"from": {"local": {"path": "/a"}}, "select": ["("]}], "not a regular expression"),
        ([{"from": {"local": {"path": "/a"}}}] * 9, "longer than the allowed 8"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(sources: object, says: str) -> None:
    with pytest.raises(CheckpointConfigError, match=says):
        build({"merge": {"sources": sources}})


def test_both_spellings_build_it_and_it_is_spelled_as_it_was_written() -> None:
    nested = [
        {"select": ["^a"], "from": {"s3": {"bucket": "b", "key": "k"}}},
        {"stripPrefix": ["m."], "addPrefix": "x.", "from": {"http": {"url": "https://h/k"}}, "ema": "auto"},
    ]
    source = build({"merge": {"sources": nested}})
    assert spell(source) == {"merge": {"sources": nested}}
    assert build(spell(source)) == source
    targets = [
        {"select": ["^a"], "from": {"_target_": "preheat.sources.S3Source", "bucket": "b", "key": "k"}},
        {"strip_prefix": ["m."], "add_prefix": "x.", "from": HTTPSource("https://h/k"), "ema": "auto"},
    ]
    assert build({"_target_": "preheat.sources.MergeSource", "sources": targets}) == source


def test_credentials_of_all_are_asked_for_and_must_not_be_each_others() -> None:
    one, other = S3Source("a", "k", secret_ref="one"), S3Source("b", "k", secret_ref="other")
    with pytest.raises(CheckpointConfigError, match="Name the same Secret in both"):
        MergeSource((MergedSource(from_=one), MergedSource(from_=other)))
    with pytest.raises(CheckpointConfigError, match="Name the same Secret in both"):
        MergeSource((MergedSource(from_=RunSource(replace(one, key="runs/"))), MergedSource(from_=other)))
    web = HTTPSource("https://h/k", secret_ref="token")
    both = MergeSource((MergedSource(from_=one), MergedSource(from_=web), MergedSource(from_=one, add_prefix="x.")))
    assert {secret for secret, _ in both.secrets} == {"one", "token"}
    assert len(both.secrets) == 6


def test_one_source_that_is_only_in_the_pod_makes_all_of_it_so() -> None:
    remote, here = MergedSource(from_=S3Source("a", "k")), MergedSource(from_=LocalSource("/preheat/a"))
    assert not MergeSource((remote,)).in_pod
    assert MergeSource((remote, here)).in_pod
