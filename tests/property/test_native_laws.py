"""Laws of every quant type, on any weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_native import (
    QUANT_TYPES,
    dequantize,
    instruction_sets,
    measure_error,
    measure_errors,
    measure_rows,
    quantize,
)
from support.examples import examples
from support.oracles.ggml import BY_NAME, row_bytes

NAMES = [quant_type.name for quant_type in QUANT_TYPES]
EXACT = {"F32", "F16", "BF16"}

kinds = st.sampled_from(
    ["gauss", "tails", "outlier", "constant", "positive", "huge", "tiny", "sparse", "zero", "halves"]
)
seeds = st.integers(0, 2**32 - 1)


def some_weights(kind: str, seed: int, rows: int = 3, length: int = 512) -> np.ndarray:
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((rows, length))
    with np.errstate(under="ignore"):
        match kind:
            case "tails":
                plain = rng.standard_t(3, (rows, length))
            case "outlier":
                plain[:, rng.integers(length)] = 1000
            case "constant":
                plain[:] = rng.standard_normal((rows, 1))
            case "positive":
                plain = np.abs(plain) + 1
            case "huge":
                plain *= 10.0 ** rng.uniform(4, 37)
            case "tiny":
                plain *= 10.0 ** rng.uniform(-45, -6)
            case "sparse":
                plain *= rng.random((rows, length)) < 0.02
            case "zero":
                plain *= 0.0
            case (
                "halves"
            ):  # halfway between values of IQ4_NL, and between codes, where a block begins with the lowest one
                plain = rng.integers(-254, 227, (rows, length)) / 2
                plain[:, ::32] = -127
        return plain.astype(np.float32)


def some_importance(seed: int, length: int = 512) -> np.ndarray | None:
    rng = np.random.default_rng(seed + 1)
    choice = rng.integers(4)
    importance = rng.gamma(0.3, 1.0, length).astype(np.float32)
    if choice == 1:
        importance[rng.random(length) < 0.5] = 0
    if choice == 2:
        importance[256:] = 0
    return None if choice == 3 else importance


@pytest.mark.parametrize("name", NAMES)
@given(kind=kinds, seed=seeds)
@examples(30)
def test_bytes_depend_on_weights_and_importance_alone(name: str, kind: str, seed: int) -> None:
    weights, importance = some_weights(kind, seed), some_importance(seed)
    blocks = quantize(name, weights, importance, threads=1)
    assert blocks.shape == (3, row_bytes(BY_NAME[name], 512))
    for level in instruction_sets():
        assert np.array_equal(blocks, quantize(name, weights, importance, instruction_set=level)), level
    alone = np.ascontiguousarray(weights[1:2])
    assert np.array_equal(blocks[1:2], quantize(name, alone, importance))
    assert np.isfinite(dequantize(name, blocks, 512)).all()


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds)
@examples(5)
def test_threads_change_nothing(name: str, seed: int) -> None:
    weights, importance = some_weights("tails", seed, rows=300), some_importance(seed)
    one, two = (quantize(name, weights, importance, threads=threads) for threads in (1, 2))
    assert np.array_equal(one, two)
    sums = [measure_error(name, weights, importance, threads=threads) for threads in (1, 2)]
    assert sums[0].weighted_squared_error == sums[1].weighted_squared_error
    assert sums[0].weighted_energy == sums[1].weighted_energy


@given(seed=seeds, kind=kinds, rows=st.integers(0, 9))
@examples(30)
def test_each_row_is_measured_as_if_alone(seed: int, kind: str, rows: int) -> None:
    weights, importance = some_weights(kind, seed, rows=rows), some_importance(seed)
    sums = measure_rows(NAMES, weights, importance)
    assert sums.shape == (len(NAMES), rows, 2)
    for row in range(rows):
        alone = measure_errors(NAMES, np.ascontiguousarray(weights[row : row + 1]), importance)
        assert [(each.weighted_squared_error, each.weighted_energy) for each in alone] == [*map(tuple, sums[:, row])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("effort", ["fast", "best"])
def test_zeros_stay_zero(name: str, effort: str) -> None:
    weights = np.zeros((2, 256), np.float32)
    weights[1] = -0.0
    assert not dequantize(name, quantize(name, weights, effort=effort), 256).any()


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds, power=st.integers(-40, 40))
def test_the_unit_of_importance_does_not_matter(name: str, seed: int, power: int) -> None:
    weights, importance = some_weights("gauss", seed), some_importance(seed)
    if importance is not None:
        scaled = importance * np.float32(2.0**power)
        assert np.array_equal(quantize(name, weights, importance), quantize(name, weights, scaled))


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds)
def test_equal_importance_is_no_importance(name: str, seed: int) -> None:
    weights = some_weights("tails", seed)
    assert np.array_equal(quantize(name, weights), quantize(name, weights, np.full(512, 0.25, np.float32)))


@pytest.mark.parametrize("name", sorted(EXACT))
@given(seed=seeds, kind=kinds)
def test_plain_types_round_as_ieee_says(name: str, seed: int, kind: str) -> None:
    weights = some_weights(kind, seed)
    restored = dequantize(name, quantize(name, weights), 512)
    if name == "F32":
        expected = weights
    elif name == "F16":
        expected = np.clip(weights, -65504, 65504).astype(np.float16).astype(np.float32)
    else:
        bits = weights.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        largest = (bits & 0x80000000) | 0x7F7F0000
        expected = np.where((rounded & 0x7F800000) == 0x7F800000, largest, rounded).astype(np.uint32).view(np.float32)
    assert np.array_equal(restored, expected)


@given(seed=seeds)
def test_q8_0_errs_by_half_a_step(seed: int) -> None:
    weights = some_weights("tails", seed)
    blocks = quantize("Q8_0", weights)
    step = blocks.reshape(3, 16, 34)[:, :, :2].copy().view(np.float16).astype(np.float64)
    difference = np.abs(weights - dequantize("Q8_0", blocks, 512).astype(np.float64)).reshape(3, 16, 32)
    # The largest weight may lie half a step of the rounded scale beyond code 127.
    assert (difference <= step * (0.5 + 127 * 2.0**-11)).all()


@given(seed=seeds)
def test_more_bits_err_less(seed: int) -> None:
    weights, importance = some_weights("gauss", seed, rows=8), some_importance(seed)
    families = [["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"], ["Q4_0", "Q5_0", "Q8_0"], ["Q4_1", "Q5_1"]]
    for family in families:
        errors = [found.weighted_squared_error for found in measure_errors(family, weights, importance)]
        assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_any_bytes_are_read(name: str, data: st.DataObject) -> None:
    count = row_bytes(BY_NAME[name], 256)
    blocks = np.frombuffer(data.draw(st.binary(min_size=count, max_size=count)), np.uint8).reshape(1, count)
    assert dequantize(name, blocks.copy(), 256).shape == (1, 256)
