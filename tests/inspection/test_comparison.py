import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources.fault_server import FaultServer

from preheat.verbs import differences
from preheat.verbs.comparison import compare
from preheat.verbs.differences import Difference

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


def saved(folder: Path, name: str, tensors: Mapping[str, Any]) -> Path:
    torch.save(dict(tensors), folder / name)
    return folder / name


def values(folder: Path, one: torch.Tensor, other: torch.Tensor) -> Difference:
    pair = saved(folder, "one.pt", {"x": one}), saved(folder, "other.pt", {"x": other})
    found = compare(*pair, values=True).values
    assert found is not None
    return found["x"]


def test_names_shapes_and_dtypes_are_told_apart(tmp_path: Path) -> None:
    one = {"same": torch.ones(3), "gone": torch.ones(1), "shape": torch.ones(2, 3), "dtype": torch.ones(4)}
    other = {"same": torch.ones(3), "new": torch.ones(1), "shape": torch.ones(3, 2), "dtype": torch.ones(4).half()}
    found = compare(saved(tmp_path, "a.pt", one), saved(tmp_path, "b.pt", other))
    assert (found.missing, found.unexpected, found.tensors) == (("gone",), ("new",), 3)
    assert found.shapes == {"shape": ((2, 3), (3, 2))}
    assert found.dtypes == {"dtype": ("F32", "F16")}
    assert (found.values, found.equal) == (None, False)


def test_a_checkpoint_equals_itself_in_another_format(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {"a": torch.randn(1000, 30), "b": torch.randn(7).bfloat16(), "empty": torch.empty(0, 3)}
    save_file(tensors, tmp_path / "x.safetensors")
    path = saved(tmp_path, "x.ckpt", {"state_dict": tensors, "epoch": 1})
    found = compare(path, tmp_path / "x.safetensors", values=True)
    assert found.equal
    assert len(found.values or {}) == 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_greatest_difference_is_torchs(dtype: torch.dtype, tmp_path: Path) -> None:
    one = (torch.randn(500, 30) * 50).to(dtype)
    other = one.clone()
    other[123, 4] = not one[123, 4] if dtype == torch.bool else torch.tensor(17.0).to(dtype)
    other[7, 0] = one[7, 1]
    wide = torch.complex128 if dtype.is_complex else torch.float64
    distances = (one.to(wide) - other.to(wide)).abs()
    found = values(tmp_path, one, other)
    assert found.largest == pytest.approx(distances.max().item(), rel=1e-6)
    assert (found.differing, found.elements) == (int((distances > 0).sum()), 15_000)


def test_different_dtypes_are_compared_by_value(tmp_path: Path) -> None:
    tensor = torch.randn(1000).bfloat16()
    assert values(tmp_path, tensor, tensor.float()).equal
    exact = torch.randn(1000)
    assert 0 < values(tmp_path, exact, exact.bfloat16()).largest < 0.02


def test_nan_equals_nan_and_is_infinitely_far_from_numbers(tmp_path: Path) -> None:
    nan = torch.tensor([1.0, math.nan, math.inf])
    assert values(tmp_path, nan, nan.clone()).equal
    found = values(tmp_path, nan, torch.tensor([1.5, 2.0, math.inf]))
    assert (found.largest, found.differing) == (math.inf, 2)
    assert found.to_json()["maxAbs"] is None


def test_large_integers_are_not_rounded(tmp_path: Path) -> None:
    one = torch.tensor([1 << 62, -(1 << 63)])
    assert values(tmp_path, one, one + torch.tensor([1, 0])).largest == 1
    assert values(tmp_path, one, torch.tensor([1 << 62, (1 << 63) - 1])).largest == pytest.approx(2.0**64)


@pytest.mark.parametrize("block", [7, 64, 1 << 17])
def test_strided_tensors_are_compared_in_order(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "BLOCK", block)
    plain = torch.randn(60, 41)
    assert values(tmp_path, plain.t(), plain.t().contiguous()).equal
    changed = plain.t().contiguous()
    changed[3, 5] += 1
    found = values(tmp_path, plain.t(), changed)
    assert (found.largest, found.differing) == (pytest.approx(1.0, abs=1e-5), 1)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=4), change=st.integers(0, 10_000))
def test_one_changed_element_is_found(lengths: list[int], change: int, tmp_path: Path) -> None:
    one = {f"t{n}": torch.randn(length) for n, length in enumerate(lengths)}
    other = {name: tensor.clone() for name, tensor in one.items()}
    touched = f"t{change % len(lengths)}"
    if other[touched].numel():
        other[touched][change % other[touched].numel()] += 3
    found = compare(saved(tmp_path, "a.pt", one), saved(tmp_path, "b.pt", other), values=True)
    assert found.equal == (not other[touched].numel())
    assert found.values is not None
    assert [name for name, difference in found.values.items() if not difference.equal] == [touched] * (not found.equal)


def test_two_urls_are_compared_and_names_alone_cost_no_payload(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.pt", {f"t{n}": torch.randn(200_000) for n in range(5)})
    with FaultServer().running() as server:
        url = server.serve("/a.pt", path.read_bytes())
        assert compare(url, path).equal
        assert server.sent < 150_000
        server.next(cut_after=10_000)
        assert compare(url, path, values=True).equal
