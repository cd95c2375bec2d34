"""Bytes into models: every layout of a target, what is refused untouched, and what an error says when it was not."""

import gc
import os
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shim.bundles import write_bundle

from preheat.bundle.data import open_bundle
from preheat.context import CheckpointContext
from preheat.errors import (
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointLoadError,
    CheckpointValidationError,
    TruncatedError,
)
from preheat.file_blob import FileBlob
from preheat.index import Part, joined
from preheat.pipeline import CheckpointPipeline
from preheat.sources import LocalSource
from preheat.strategies import TransferLearningLoader, WeightsOnlyLoader
from preheat.strategies.filling import reads
from preheat.strategies.filling.fill import fill
from preheat.strategies.filling.lanes import HostLane
from preheat.strategies.filling.moves import Move, part_of
from preheat.strategies.filling.reads import plan_reads
from preheat.strategies.filling.slices import Cut, boxes_of, region_of
from preheat.strategies.filling.tensors import DTYPES
from preheat.verify import Verify


class Holder(torch.nn.Module):
    """Any tensors as a model's parameters, or as buffers where they cannot have gradients."""

    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            if tensor.is_floating_point() or tensor.is_complex():
                self.register_parameter(name, torch.nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)


def load(folder, model, loader=None):
    context = CheckpointContext(model=model, checkpoint_data=open_bundle(folder))
    try:
        return CheckpointPipeline([loader or WeightsOnlyLoader()]).execute_sync(context)
    finally:
        context.checkpoint_data.close()


def random(dtype, shape):
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(-100, 100, shape, generator=generator)
    return (values > 0) if dtype == torch.bool else values.abs().to(dtype) if not dtype.is_signed else values.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (7, 5), (3, 4, 5, 6)], ids=str)
def test_every_dtype_and_shape_arrives(tmp_path, dtype, shape):
    wanted = random(dtype, shape)
    model = Holder(values=torch.zeros_like(wanted))
    load(write_bundle(tmp_path, {"values": wanted}), model)
    assert torch.equal(model.values.detach().view(torch.uint8) if shape else model.values.detach(),
                       wanted.view(torch.uint8) if shape else wanted)  # fmt: skip


@pytest.mark.parametrize("target", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_another_precision_is_cast_as_torch_casts(tmp_path, target):
    wanted = torch.randn(300, 70)
    model = Holder(values=torch.zeros(300, 70, dtype=target))
    done = load(write_bundle(tmp_path, {"values": wanted}), model)
    assert torch.equal(model.values, wanted.to(target))
    assert list(done.get_metadata("dtype_casts")) == ["values"]


@pytest.mark.parametrize("portion", [64, 1000, 1 << 20])
@pytest.mark.parametrize(
    "layout",
    [
        lambda t: t, lambda t: t.contiguous(memory_format=torch.channels_last), lambda t: t.transpose(0, 3),
        lambda t: t.to(torch.bfloat16).transpose(1, 2), lambda t: torch.zeros(4, 6, 10, 5)[:, :, ::2],
    ],
    ids=["contiguous", "channels last", "transposed", "cast and transposed", "strided"],
)  # fmt: skip
def test_targets_of_any_layout_are_filled_in_portions_of_any_size(tmp_path, monkeypatch, portion, layout):
    monkeypatch.setattr(HostLane, "slot", portion)
    monkeypatch.setattr(reads, "PORTION", portion)
    model = Holder(values=layout(torch.zeros(4, 6, 5, 5)))
    wanted = torch.randn(model.values.shape)
    load(write_bundle(tmp_path, {"values": wanted}), model)
    assert torch.equal(model.values, wanted.to(model.values.dtype))


def test_parameters_keep_identity_gradient_flag_and_hooks(tmp_path):
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    before, calls = dict(model.named_parameters()), []
    model.weight.register_hook(calls.append)
    versions = [p._version for p in model.parameters()]
    load(write_bundle(tmp_path, torch.nn.Linear(3, 2).state_dict()), model)
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    assert [model.weight.requires_grad, model.bias.requires_grad] == [True, False]
    assert [p._version for p in model.parameters()] != versions
    model(torch.ones(1, 3)).sum().backward()
    assert len(calls) == 1


def test_neighbours_in_the_file_share_a_read(tmp_path):
    tensors = {f"t{i:03}": torch.full((5,), float(i)) for i in range(600)}
    data = open_bundle(write_bundle(tmp_path, tensors))
    moves = sorted((Move(t, torch.zeros(5)) for t in data.index.tensors.values()), key=lambda m: m.source.start)
    assert [len(read.views) for read in plan_reads(moves)] == [512, 88]
    assert fill(data.blob, moves) == 600 * 20
    data.close()
    assert torch.equal(torch.stack([m.target[0] for m in moves]), torch.arange(600.0))


def test_a_blob_that_only_streams_fills_the_same(tmp_path):
    class Streaming:
        def __init__(self, blob):
            self.uri, self.size, self.read, self._blob = blob.uri, blob.size, blob.read, blob

        def stream(self, start, stop, buffer):
            for at in range(start, stop, 100):  # pieces that end in the middle of tensors
                yield from self._blob.stream(at, min(at + 100, stop), buffer)

    wanted = {f"t{i}": torch.randn(33) for i in range(9)}
    data = open_bundle(write_bundle(tmp_path, wanted))
    targets = {name: torch.zeros(33) for name in wanted}
    fill(Streaming(data.blob), [Move(data.index.tensors[name], target) for name, target in targets.items()])
    data.close()
    assert all(torch.equal(targets[name], wanted[name]) for name in wanted)


@given(st.data())
def test_of_a_tensor_that_was_saved_in_boxes_only_what_is_wanted_is_read(tmp_path_factory, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    wanted = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)

    def cuts():
        axes = st.integers(0, len(shape) - 1)
        return [(data.draw(axes), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))) for _ in range(2)]

    def regions(cut):
        for places in product(*(range(parts) for _, parts, _ in cut)):
            cut_at = [Cut(axis, parts, at, blocks) for (axis, parts, blocks), at in zip(cut, places, strict=True)]
            yield region_of(shape, cut_at)

    boxes = [(corner, held, region) for region in regions(cuts()) for corner, held in boxes_of(region)]
    stored = {str(n): part_of(wanted, region)[held].contiguous() for n, (_, held, region) in enumerate(boxes)}
    bundle = open_bundle(write_bundle(tmp_path_factory.mktemp("boxes"), stored))
    parts = [Part(corner, bundle.index.tensors[str(n)]) for n, (corner, _, _) in enumerate(boxes)]
    source = joined("w", "F32", shape, parts)
    for region in [None, *regions(cuts())]:
        target = torch.zeros_like(part_of(wanted, region))
        assert fill(bundle.blob, [Move(source, target, region)]) == target.nbytes
        assert torch.equal(target, part_of(wanted, region))
        assert sum(part.size for part in Move(source, target, region).of_parts()) == target.nbytes
    bundle.close()


@pytest.mark.parametrize("enabled", [True, False], ids=["on", "off"])
def test_the_garbage_collector_is_left_as_it_was_also_after_a_failure(tmp_path, enabled):
    (gc.enable if enabled else gc.disable)()
    try:
        load(write_bundle(tmp_path, {"a": torch.ones(3)}), Holder(a=torch.zeros(3)))
        assert gc.isenabled() == enabled
        with pytest.raises(CheckpointIncompatibleError):
            load(tmp_path, Holder(a=torch.zeros(4)))
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_tied_parameters_are_loaded_once_and_both_reported(tmp_path):
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(4, 3), "head": torch.nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    wanted = torch.randn(4, 3)
    done = load(write_bundle(tmp_path, {"embed.weight": wanted}), model)
    assert done.get_metadata("transferred_params") == ["embed.weight", "head.weight"]
    assert done.get_metadata("loaded_bytes") == 48
    assert torch.equal(model["head"].weight, wanted)
    assert model["head"].weight is model["embed"].weight


def test_an_alias_of_the_bundle_fills_a_model_that_is_not_tied(tmp_path):
    wanted = torch.randn(4)
    model = Holder(a=torch.zeros(4), b=torch.zeros(4))
    load(write_bundle(tmp_path, {"a": wanted}, aliases={"b": "a"}), model)
    assert torch.equal(model.a, wanted)
    assert torch.equal(model.b, wanted)


def test_buffers_count_when_they_are_persistent(tmp_path):
    model = torch.nn.BatchNorm1d(2)
    model.register_buffer("scratch", torch.ones(3), persistent=False)
    state = {**model.state_dict(), "num_batches_tracked": torch.tensor(77)}
    done = load(write_bundle(tmp_path, state), model)
    assert model.num_batches_tracked == 77
    assert "num_batches_tracked" in done.get_metadata("transferred_params")
    assert done.get_metadata("initial_params") == {}


def test_the_metadata_is_that_of_the_guide(tmp_path):
    folder = write_bundle(tmp_path, {"a": torch.ones(2), "b": torch.ones(3), "old": torch.ones(1)})
    model = Holder(a=torch.zeros(2), b=torch.zeros(2), new=torch.zeros(1))
    context = CheckpointContext(model=model, optimizer=object(), checkpoint_data=open_bundle(folder))
    done = CheckpointPipeline([TransferLearningLoader()]).execute_sync(context)
    context.checkpoint_data.close()
    assert done.metadata["loading_strategy"] == "transfer_learning"
    assert done.metadata["transferred_params"] == ["a"]
    assert done.metadata["skipped_params"] == {"old": "not in the model", "b": "shape [3], model has [2]"}
    assert done.metadata["initial_params"] == {"b": "shape [3], model has [2]", "new": "not in the checkpoint"}
    assert done.optimizer is None
    assert model.weights_initialized is True


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.LazyLinear(2), r"has no shape yet.*Run one batch"),
        (torch.nn.Linear(3, 2).weight, r"Parameter is not a torch.nn.Module"),
    ],
    ids=["lazy", "no module"],
)
def test_models_that_cannot_be_filled_are_refused(tmp_path, model, message):
    with pytest.raises(CheckpointIncompatibleError, match=message):
        load(write_bundle(tmp_path, torch.nn.Linear(3, 2).state_dict()), model)


def test_a_parameter_that_is_to_be_summed_over_processes_is_refused_untouched(tmp_path):
    from torch.distributed.tensor import DTensor, Partial, init_device_mesh

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        model = torch.nn.Linear(3, 2)
        mesh = init_device_mesh("cpu", (1,))
        model.weight = torch.nn.Parameter(DTensor.from_local(model.weight.detach(), mesh, [Partial()]))
        bias = model.bias.detach().clone()
        with pytest.raises(CheckpointIncompatibleError, match=r"'weight' is placed as P.*no part of the whole"):
            load(write_bundle(tmp_path / "bundle", torch.nn.Linear(3, 2).state_dict()), model)
        assert torch.equal(model.bias, bias)
    finally:
        torch.distributed.destroy_process_group()


def test_a_state_dict_of_copies_is_refused(tmp_path):
    model = torch.nn.Linear(3, 2)
    model.register_state_dict_post_hook(lambda module, state, *_: state.update(weight=state["weight"].clone()))
    with pytest.raises(CheckpointIncompatibleError, match="hands out a copy of 'weight'"):
        load(write_bundle(tmp_path, torch.nn.Linear(3, 2).state_dict()), model)


def test_what_does_not_fit_leaves_the_model_untouched(tmp_path):
    model = Holder(a=torch.zeros(2), b=torch.zeros(2))
    with pytest.raises(CheckpointIncompatibleError) as caught:
        load(write_bundle(tmp_path, {"a": torch.ones(2), "b": torch.ones(3)}), model)
    assert "touched" not in str(caught.value)
    assert torch.equal(model.a, torch.zeros(2))


def test_a_bundle_that_shrinks_while_it_is_read_says_that_the_model_was_touched(tmp_path):
    folder = write_bundle(tmp_path, {"a": torch.ones(2000), "b": torch.ones(2000)})
    data = open_bundle(folder)
    os.truncate(folder / "model.safetensors", 9000)
    context = CheckpointContext(model=Holder(a=torch.zeros(2000), b=torch.zeros(2000)), checkpoint_data=data)
    with pytest.raises(CheckpointError, match="the model was touched: do not train with it"):
        CheckpointPipeline([WeightsOnlyLoader()]).execute_sync(context)
    data.close()


def test_an_error_of_torch_while_filling_says_that_the_model_was_touched(tmp_path):
    model = Holder(a=torch.zeros(3, 1).expand(3, 4))  # several elements in one place: nothing can be copied into it
    with pytest.raises(CheckpointLoadError, match="the model was touched"):
        load(write_bundle(tmp_path, {"a": torch.ones(3, 4)}), model)


def saved(path, state):
    torch.save(state, path)
    return path


def run(path, model, *checks):
    context = CheckpointContext(model=model)
    return CheckpointPipeline([LocalSource(str(path)), *checks, WeightsOnlyLoader()]).execute_sync(context)


def test_a_torch_file_fills_a_model_without_a_cluster(tmp_path):
    base = torch.randn(6, 4)
    path = saved(tmp_path / "m.ckpt", {"state_dict": {"a": base.t(), "b": base[2:4], "c": torch.tensor(3)}})
    model = Holder(a=torch.zeros(4, 6), b=torch.zeros(2, 4), c=torch.tensor(0))
    run(path, model)
    assert torch.equal(model.a, base.t())
    assert torch.equal(model.b, base[2:4])
    assert model.c == 3


def test_a_flipped_bit_is_found_before_the_model_is_touched(tmp_path):
    path = saved(tmp_path / "m.ckpt", {"a": torch.full((1000,), 7.5)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((10,), 7.5).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    model = Holder(a=torch.zeros(1000))
    with pytest.raises(CheckpointValidationError, match="has CRC-32") as caught:
        run(path, model)
    assert "touched" not in str(caught.value)
    assert not model.a.any()


def test_a_wrong_digest_is_found_before_the_model_is_touched(tmp_path):
    model = Holder(a=torch.zeros(3))
    with pytest.raises(CheckpointValidationError, match="has SHA-256"):
        run(saved(tmp_path / "m.ckpt", {"a": torch.ones(3)}), model, Verify(sha256="0" * 64))
    assert not model.a.any()


def test_weights_that_are_not_finite_are_refused_when_asked(tmp_path):
    path = saved(tmp_path / "m.ckpt", {"a": torch.tensor([1.0, float("nan")])})
    with pytest.raises(CheckpointValidationError, match=r"'a' holds NaN or infinity.*the model was touched"):
        run(path, Holder(a=torch.zeros(2)), Verify(finite=True))


def test_lazy_tensors_are_read_into_memory_of_their_own(tmp_path):
    data = open_bundle(write_bundle(tmp_path, {"a": torch.arange(6.0).view(2, 3)}))
    first, second = data["state_dict"]["a"], data["state_dict"]["a"]
    data.close()
    first.zero_()
    assert torch.equal(second, torch.arange(6.0).view(2, 3))


def test_a_read_past_the_end_names_the_bytes(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(b"1234")
    blob = FileBlob(path)
    with pytest.raises(TruncatedError, match="it ends at 4"):
        blob.read_into(2, [memoryview(bytearray(2)), memoryview(bytearray(3))])
    blob.close()
