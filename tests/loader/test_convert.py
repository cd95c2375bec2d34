"""The convert stage from source to bundle and in one process: the same names, dtypes and bits as torch would give."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import BytesBlob, index_of, same, saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loader.loader_process import POD, load
from loader.test_loader import measure
from safetensors.torch import load_file, save

from preheat import CheckpointContext, CheckpointPipeline
from preheat.bundle.data import CheckpointData, open_bundle
from preheat.bundle.manifest import Manifest
from preheat.bundle.store import digest_of
from preheat.checks import Checks
from preheat.errors import (
    CheckpointConfigError,
    CheckpointIncompatibleError,
    CheckpointValidationError,
    NothingMatchedError,
)
from preheat.formats import read_index
from preheat.index import Index, Record, Tensor
from preheat.plan import make_plan
from preheat.spec import PipelineSpec, parse
from preheat.transfer import engine, gather
from preheat.transfer.checksum import crc32
from preheat.transfer.engine import Transferred
from preheat.transfer.engine import transfer as execute
from preheat.transfer.pace import Pace
from preheat.verbs.forecast import plan_pipeline

SHARED = torch.randn(4000)
WEIGHTS = {
    "module.encoder.weight": torch.randn(300, 200),
    "module.encoder.turned": torch.randn(60, 70).t(),
    "module.encoder.narrow": torch.randn(5, 3, 17).double()[:, 1:, ::3],
    "module.encoder.half": torch.randn(99).half(),
    "module.encoder.steps": torch.arange(7),
    "module.encoder.scalar": torch.tensor(2.5),
    "module.encoder.empty": torch.empty(0, 3),
    "module.tied.one": SHARED,
    "module.tied.two": SHARED,
    "module.part": SHARED[13:1000],
    "module.head.weight": torch.randn(1000),
}
TREE = {"state_dict": WEIGHTS, "optimizer_states": [torch.randn(5000)], "pytorch-lightning_version": "2.6.6"}
CONVERT = {
    "exclude": [r"^module\.head\."],
    "stripPrefix": ["module."],
    "rename": [{"pattern": r"^encoder\.(\w+)$", "replacement": r"backbone.\1"}],
    "addPrefix": "net.",
    "dtype": "bfloat16",
}


def expected(dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    return {
        "net." + name.removeprefix("module.").replace("encoder", "backbone"): (
            tensor.to(dtype) if tensor.is_floating_point() else tensor
        ).contiguous()
        for name, tensor in WEIGHTS.items()
        if "head" not in name
    }


def spec_of(convert: Mapping[str, Any], **verify: Any) -> PipelineSpec:
    return parse({"stages": [{"local": {"path": "x"}}, {"verify": verify}, {"convert": convert}, {"weightsOnly": {}}]})


def moved(content: bytes, convert: Mapping[str, Any], path: Path, **verify: Any) -> tuple[Transferred, dict[str, Any]]:
    blob, spec = BytesBlob(content), spec_of(convert, **verify)
    plan = make_plan(read_index(blob), spec)
    done = execute(plan, blob, path, Checks(None, verify.get("crc32", True), verify.get("finite", True)))
    found = load_file(path)
    return done, found | {alias: found[name] for alias, name in plan.aliases.items()}


@pytest.fixture(params=["one cut", "many cuts"])
def cuts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many cuts":
        monkeypatch.setattr(engine, "REMOTE", Pace(3, 1001, 4096))
        monkeypatch.setattr(gather, "BLOCK", 5000)


@pytest.mark.parametrize("crc", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.usefixtures("cuts")
def test_every_tensor_arrives_as_torch_would_cast_it(dtype: str, crc: bool, tmp_path: Path) -> None:
    done, found = moved(saved(TREE), {**CONVERT, "dtype": dtype}, tmp_path / "out", crc32=crc)
    wanted = expected(getattr(torch, dtype))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert same(found[name], tensor), name
    for name, checksum in done.checksums.items():
        assert checksum == crc32(found[name].reshape(-1).view(torch.uint8).numpy().tobytes()), name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    starts=st.lists(st.integers(0, 900), min_size=1, max_size=6),
    odd=st.lists(st.integers(0, 3000), max_size=40),
    buffer=st.integers(1, 700),
    crc=st.booleans(),
)
def test_elements_survive_any_cut(
    starts: list[int],
    odd: list[int],
    buffer: int,
    crc: bool,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bytes that other tensors of the same storage begin with lie anywhere in its elements."""
    monkeypatch.setattr(engine, "REMOTE", Pace(2, buffer, 150))
    base = torch.randn(1000)
    content = base.view(torch.uint8).numpy().tobytes()
    record = Record("data/0", 0, len(content), crc32(content))
    tensors = {f"f{n}": Tensor("F32", (1000 - start,), record, 4 * start) for n, start in enumerate(starts)}
    tensors |= {f"b{n}": Tensor("U8", (77,), record, start) for n, start in enumerate(odd)}
    plan = make_plan(Index("torch-zip", "raw", tensors), spec_of({"dtype": "bfloat16"}, crc32=crc))
    path = tmp_path_factory.mktemp("cut") / "out"
    done = execute(plan, BytesBlob(content), path, Checks(crc32=crc, finite=True))
    for name, values in load_file(path).items():
        start = tensors[name].offset
        wanted = base[start // 4 :].bfloat16() if name[0] == "f" else base.view(torch.uint8)[start : start + 77]
        assert same(values, wanted), name
        assert done.checksums[name] == crc32(values.view(torch.uint8).numpy().tobytes())


def test_a_safetensors_file_is_converted_too(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(70, 3), "b": torch.randn(9).bfloat16(), "c": torch.arange(3)}
    _, found = moved(save(tensors), {"dtype": "float16"}, tmp_path / "out")
    assert same(found["a"], tensors["a"].half())
    assert same(found["b"], tensors["b"].half())
    assert same(found["c"], tensors["c"])


def test_a_flipped_bit_of_the_source_is_found_before_the_cast_hides_it(tmp_path: Path) -> None:
    content = bytearray(saved({"w": torch.ones(3000)}))
    content[index_of(bytes(content)).tensors["w"].start + 400] ^= 1  # too small for a bfloat16
    with pytest.raises(CheckpointValidationError, match="'w' is corrupt"):
        moved(bytes(content), {"dtype": "bfloat16"}, tmp_path / "out")


@pytest.mark.parametrize("turned", [False, True])
def test_a_value_that_the_cast_makes_infinite_is_refused(turned: bool, tmp_path: Path) -> None:
    tensor = torch.full((30, 20), 70_000.0)
    content = saved({"w": tensor.t() if turned else tensor})
    with pytest.raises(CheckpointValidationError, match="'w' holds values that F16 cannot"):
        moved(content, {"dtype": "float16"}, tmp_path / "out")
    _, found = moved(content, {"dtype": "float16"}, tmp_path / "unchecked", finite=False)
    assert found["w"].isinf().all()
    with pytest.raises(CheckpointValidationError, match="'w' holds NaN or infinity"):
        moved(
            saved({"w": (tensor * torch.nan).t() if turned else tensor * torch.nan}),
            {"dtype": "float16"},
            tmp_path / "n",
        )


def test_what_is_excluded_does_not_travel_and_is_counted() -> None:
    index = index_of(saved(TREE))
    everything, less = make_plan(index, spec_of({})), make_plan(index, spec_of(CONVERT, crc32=False))
    assert (less.excluded_tensors, less.excluded_bytes) == (1, 4000)
    assert everything.selected_bytes - less.selected_bytes == 4000
    assert (everything.excluded_tensors, everything.excluded_bytes) == (0, 0)
    head = index.tensors["module.head.weight"]
    assert all(move.stop <= head.start or head.start + head.size <= move.start for move in less.moves)


def test_a_tie_outlives_its_names_and_the_exclusion_of_one() -> None:
    index = index_of(saved(TREE))
    assert make_plan(index, spec_of(CONVERT)).aliases == {"net.tied.two": "net.tied.one"}
    plan = make_plan(index, spec_of({"exclude": [r"tied\.one"]}))
    assert (plan.aliases, plan.excluded_tensors, plan.excluded_bytes) == ({}, 1, 0)
    assert "module.tied.two" in {move.name for move in plan.moves}


def test_each_pattern_has_its_dtype_and_the_later_one_holds(tmp_path: Path) -> None:
    dtypes = [
        {"pattern": "encoder", "dtype": "float32"},
        {"pattern": r"\.half$", "dtype": "float16"},
        {"pattern": "narrow", "dtype": "unchanged"},
    ]
    _, found = moved(saved(TREE), {**CONVERT, "dtypes": dtypes}, tmp_path / "out")
    wanted = expected()
    for name, tensor in expected(torch.float32).items():
        if "backbone" in name:
            wanted[name] = tensor
    wanted["net.backbone.half"] = WEIGHTS["module.encoder.half"]
    wanted["net.backbone.narrow"] = WEIGHTS["module.encoder.narrow"].contiguous()
    assert found.keys() == wanted.keys()
    assert all(same(found[name], tensor) for name, tensor in wanted.items())


def test_dtypes_of_some_leave_the_others_as_they_are() -> None:
    taken = parse(
        {"stages": [{"local": {"path": "x"}}, {"convert": {"dtypes": [{"pattern": "head", "dtype": "float16"}]}}]}
    )
    plan = make_plan(index_of(saved(TREE)), taken)
    assert {name for name, tensor in plan.index.tensors.items() if tensor.cast} == {"module.head.weight"}
    assert digest_of("u", "v", taken) != digest_of("u", "v", spec_of({}))


@pytest.mark.parametrize(
    ("dtypes", "kind", "words"),
    [
        ([{"pattern": "haed", "dtype": "float16"}], NothingMatchedError, "dtypes 'haed' matches none of 10 floating"),
        ([{"pattern": "steps", "dtype": "float16"}], NothingMatchedError, "dtypes 'steps'"),
        (
            [{"pattern": r"tied\.two", "dtype": "float16"}],
            CheckpointIncompatibleError,
            "tied.two is tied to ",
        ),
        ([{"pattern": "head", "dtype": "int8"}], CheckpointConfigError, "'int8' is none of float32, .*unchanged"),
        ([{"pattern": "(", "dtype": "float16"}], CheckpointConfigError, "not a regular expression"),
        ([{"pattern": "head", "type": "float16"}], CheckpointConfigError, "unknown parameter 'type'"),
        ("head", CheckpointConfigError, "give a list of {pattern: ..., dtype: ...}"),
    ],
)
def test_a_dtype_that_cannot_be_given_is_refused(dtypes: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        make_plan(index_of(saved(TREE)), spec_of({"dtypes": dtypes}))


def test_a_bundle_differs_by_its_conversion() -> None:
    plain, other = spec_of({}), spec_of(CONVERT)
    assert digest_of("u", "v", plain) != digest_of("u", "v", other)
    assert other.remaining == plain.remaining


def test_the_loader_leaves_a_converted_bundle(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(saved(TREE))
    stages = [{"local": {"path": str(tmp_path / "model.ckpt")}}, {"convert": CONVERT}, {"weightsOnly": {}}]
    ended = load(stages, tmp_path / "volume")
    assert ended.code == 0, ended.log
    assert "excluding 1 tensor" in ended.log
    folder = (tmp_path / "volume" / "pods" / POD / "bundle").resolve()
    text = (folder / "manifest.json").read_text()
    manifest = Manifest.from_json(text)
    assert json.loads(text)["left"] | {"opaque": []} == {
        "stateTensors": 1, "stateBytes": 20_000, "opaque": [], "excludedTensors": 1, "excludedBytes": 4000,
        "entries": {"optimizer_states": {"tensors": 1, "bytes": 20_000}},
    }  # fmt: skip
    assert manifest.tensors["net.backbone.weight"].dtype == "BF16"
    assert manifest.stages == ({"weightsOnly": {}},)
    data = open_bundle(folder)
    for name, tensor in expected().items():
        assert same(data["state_dict"][name], tensor), name
    data.close()


def test_a_forecast_knows_what_a_conversion_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(saved(TREE))
    source = {"local": {"path": str(tmp_path / "model.ckpt")}}
    whole, less = (plan_pipeline(parse({"stages": [source, *rest]})) for rest in ([], [{"convert": CONVERT}]))
    assert (less.excluded_tensors, less.excluded_bytes) == (1, 4000)
    assert whole.parameters - less.parameters == 1000
    assert less.output_bytes < whole.output_bytes


def test_a_typo_ends_the_loader_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(saved(TREE))
    stages = [{"local": {"path": str(tmp_path / "model.ckpt")}}, {"convert": {"exclude": ["haed"]}}]
    ended = load(stages, tmp_path / "volume")
    assert (ended.code, ended.message["reason"]) == (41, "NothingMatched")
    assert "exclude 'haed' matches none of 11 tensors" in ended.message["message"]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4, 3))
        self.turned = torch.nn.Parameter(torch.zeros(3, 2))
        self.plain = torch.nn.Parameter(torch.zeros(5).bfloat16())


def test_one_process_gives_the_same_names_and_values(tmp_path: Path) -> None:
    tensors = {
        "module.weight": torch.randn(4, 3),
        "module.turned": torch.randn(2, 3).t(),
        "module.plain": torch.randn(5),
    }
    (tmp_path / "model.ckpt").write_bytes(saved({"state_dict": {**tensors, "head": torch.ones(2)}}))
    convert = {"exclude": ["^head"], "stripPrefix": ["module."], "dtype": "bfloat16"}
    stages = [{"local": {"path": str(tmp_path / "model.ckpt")}}, {"convert": convert}, {"weightsOnly": {}}]
    context = CheckpointPipeline(stages, async_execution=False).execute(CheckpointContext(model=Net()))
    for name, tensor in tensors.items():
        name = name.removeprefix("module.")
        assert torch.equal(context.model.state_dict()[name].float(), tensor.bfloat16().float()), name
        assert same(context.checkpoint_data["state_dict"][name], tensor.bfloat16().contiguous())
    assert isinstance(context.checkpoint_data, CheckpointData)
    assert context.metadata["excluded_tensors"] == 1
    context.checkpoint_data.close()


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (["local", "weightsOnly", "convert"], "comes after the strategy"),
        (["local", "convert", "convert", "weightsOnly"], "second convert"),
        (["convert", "local", "weightsOnly"], "a source after"),
    ],
)
def test_a_conversion_stands_between_source_and_strategy(order: list[str], words: str) -> None:
    stages = {"local": {"path": "/a"}, "convert": {}, "weightsOnly": {}}
    with pytest.raises(CheckpointConfigError, match=words):
        CheckpointPipeline([{name: stages[name]} for name in order])


def test_data_that_no_source_opened_is_refused() -> None:
    context = CheckpointContext(model=Net(), checkpoint_data={"state_dict": {}})
    with pytest.raises(CheckpointConfigError, match="convert works on a checkpoint that a source opened"):
        CheckpointPipeline([{"convert": {}}], async_execution=False).execute(context)


def test_nothing_is_left_of_a_checkpoint_that_is_wholly_excluded() -> None:
    with pytest.raises(NothingMatchedError, match="leave none of the 11 tensors"):
        make_plan(index_of(saved(TREE)), spec_of({"exclude": ["module"]}))


def test_memory_does_not_grow_with_what_is_cast(tmp_path: Path) -> None:
    weights = {
        "long": torch.randn(20_000_000),
        "turned": torch.ones(4000, 4000).t(),
        "wide": torch.ones(999_999).double(),
        "repeated": torch.ones(1).expand(30_000_000),
    }
    torch.save({"state_dict": weights}, tmp_path / "large.ckpt")
    stages = [{"local": {"path": str(tmp_path / "large.ckpt")}}, {"verify": {}}, {"convert": {"dtype": "bfloat16"}}]
    peak, imported = measure(stages, tmp_path / "volume")
    assert peak <= 64
    assert "torch" not in imported
