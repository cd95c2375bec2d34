"""Casts give the bits that torch gives. NaN becomes a NaN: which one differs in torch from one loop to the next."""

from __future__ import annotations

import pytest
import torch
from formats.samples import TORCH_DTYPES
from hypothesis import given, settings
from hypothesis import strategies as st

from preheat.checks import Findings
from preheat.errors import CheckpointValidationError
from preheat.index import FLOAT8, ITEMSIZE, Record, Tensor
from preheat.transfer.cast import Casting, cast
from preheat.transfer.finite import FiniteCheck

SOURCES = ("F64", "F32", "F16", "BF16", *FLOAT8)
TARGETS = ("F32", "F16", "BF16")
BITS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}

pairs = pytest.mark.parametrize(
    ("dtype", "target"), [(dtype, target) for dtype in SOURCES for target in TARGETS if dtype != target]
)


def check(content: bytes, dtype: str, target: str) -> None:
    expected = torch.frombuffer(bytearray(content), dtype=TORCH_DTYPES[dtype]).to(TORCH_DTYPES[target])
    found = torch.from_numpy(cast(content, dtype, target)).view(TORCH_DTYPES[target])
    nan = expected.isnan()
    assert torch.equal(found.isnan(), nan)
    bits = BITS[ITEMSIZE[target]]
    differing = (found.view(bits).int() != expected.view(bits).int()) & ~nan
    assert not differing.any(), (found[differing][:5], expected[differing][:5])


def tensor(dtype: str, target: str, elements: int) -> Tensor:
    size = elements * ITEMSIZE[dtype]
    return Tensor(dtype, (elements,), Record("r", 0, size), cast=target)


@pytest.mark.parametrize("dtype", ["F16", "BF16", *FLOAT8])
@pytest.mark.parametrize("target", TARGETS)
def test_every_value_of_a_narrow_dtype_is_cast_as_torch_does(dtype: str, target: str) -> None:
    width = ITEMSIZE[dtype]
    check(b"".join(code.to_bytes(width, "little") for code in range(256**width)), dtype, target)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_the_codes_that_are_no_finite_number_are_found_one_by_one(dtype: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    finite = codes.view(TORCH_DTYPES[dtype]).float().isfinite()

    def passes(code: int) -> bool:
        findings = Findings(("finite",))
        FiniteCheck(findings).feed("w", dtype, memoryview(bytes((1, code))))
        return not findings.warnings

    assert [passes(code) for code in range(256)] == finite.tolist()


@pairs
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bits_are_cast_as_torch_does(dtype: str, target: str, data: st.DataObject) -> None:
    width = ITEMSIZE[dtype]
    words = data.draw(st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=50))
    check(b"".join(words), dtype, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["F64", "F32"])
def test_a_million_random_bit_patterns_are_cast_as_torch_does(dtype: str, target: str) -> None:
    width = ITEMSIZE[dtype]
    generator = torch.Generator().manual_seed(4)
    random = torch.randint(0, 256, (1_000_000 * width,), dtype=torch.uint8, generator=generator)
    check(random.numpy().tobytes(), dtype, target)
    normal = torch.randn(1_000_000, generator=generator, dtype=torch.float64) * 10.0 ** torch.randint(
        -45, 40, (1_000_000,), generator=generator
    )
    check(normal.to(TORCH_DTYPES[dtype]).view(torch.uint8).numpy().tobytes(), dtype, target)


def test_halves_between_two_values_go_to_the_even_one() -> None:
    bits = [high << 16 | low for high in range(0, 0x7F80, 7) for low in (0x7FFF, 0x8000, 0x8001)]
    bits += [0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x80000000]
    check(b"".join(word.to_bytes(4, "little") for word in bits), "F32", "BF16")


@settings(deadline=None)
@given(st.lists(st.integers(1, 23), max_size=30), st.sampled_from(SOURCES))
def test_elements_that_a_piece_cuts_are_put_together(lengths: list[int], dtype: str) -> None:
    target = "BF16" if dtype != "BF16" else "F32"
    width = ITEMSIZE[dtype]
    content = bytes(range(256)) * 3
    described = tensor(dtype, target, len(content) // width)
    result, casting, at = bytearray(described.final_size), Casting(None), 0
    for length in [*lengths, len(content)]:
        part = memoryview(content)[at : at + length]
        for offset, values in casting.feed("w", described, at, part):
            result[offset : offset + len(values)] = values
        at += len(part)
    assert bytes(result) == cast(content, dtype, target).tobytes()


@pytest.mark.parametrize(("target", "value"), [("F16", 70_000.0), ("BF16", 3.4e38), ("F32", 1e39)])
def test_a_cast_that_makes_a_value_infinite_is_refused_where_finite_values_are_asked_for(
    target: str, value: float
) -> None:
    content = torch.tensor([1.0, value], dtype=torch.float64).view(torch.uint8).numpy().tobytes()
    with pytest.raises(CheckpointValidationError, match=f"'w' holds values that {target} cannot"):
        list(Casting(Findings()).feed("w", tensor("F64", target, 2), 0, memoryview(content)))
    list(Casting(None).feed("w", tensor("F64", target, 2), 0, memoryview(content)))


def test_nan_that_was_there_before_is_not_blamed_on_the_cast() -> None:
    content = torch.tensor([1.0, torch.nan]).view(torch.uint8).numpy().tobytes()
    with pytest.raises(CheckpointValidationError, match="'w' holds NaN or infinity"):
        list(Casting(Findings()).feed("w", tensor("F32", "BF16", 2), 0, memoryview(content)))
