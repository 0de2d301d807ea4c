"""Codes chosen again after feedback: the sum never rises, as a witness says, with the same bytes everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raq_native import (
    QUANT_TYPES,
    dequantize,
    feedback_factor,
    instruction_sets,
    quantize,
    quantize_with_feedback,
    refine_codes,
)

ROWS, COLUMNS = 40, 512
BLOCK_TYPES = [each.name for each in QUANT_TYPES if each.weights_per_block > 1]


def _metric(size: int, seed: int, damping: float) -> np.ndarray:
    """The damped mean of x xᵀ over correlated inputs."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(4 * size, size)) @ (
        rng.normal(size=(size, size)) * np.arange(1, size + 1)[:, None] ** -0.7
    )
    gram = inputs.T @ inputs / len(inputs)
    found: np.ndarray = (gram + damping * np.mean(np.diagonal(gram)) * np.eye(size)).astype(np.float32)
    return found


WEIGHTS = (np.random.default_rng(5).standard_t(5, (ROWS, COLUMNS)) * 0.02).astype(np.float32)
INPUTS, OUTPUTS = _metric(COLUMNS, 1, 0.05), _metric(ROWS, 2, 0.1)


def _fed(quant_type: str) -> np.ndarray:
    factors = (feedback_factor(each, 0.0) for each in (INPUTS, OUTPUTS))
    return quantize_with_feedback(quant_type, WEIGHTS, *factors)


def _loss(quant_type: str, blocks: np.ndarray, outputs: np.ndarray = OUTPUTS) -> float:
    """tr(M E H Eᵀ)."""
    error = dequantize(quant_type, blocks, COLUMNS).astype(np.float64) - WEIGHTS
    return float(np.einsum("ij,ij->", outputs.astype(np.float64) @ error @ INPUTS.astype(np.float64), error))


@pytest.mark.parametrize("quant_type", BLOCK_TYPES)
def test_the_sum_falls_with_every_sweep_and_scales_stay(quant_type: str) -> None:
    fed = _fed(quant_type)
    losses = [_loss(quant_type, refine_codes(quant_type, WEIGHTS, fed, INPUTS, OUTPUTS, sweeps=n)) for n in range(4)]
    assert losses[0] == _loss(quant_type, fed)
    assert losses[1] < 0.99 * losses[0]
    assert losses[2] < losses[1] * (1 + 1e-6)
    assert losses[3] < losses[2] * (1 + 1e-6)


@pytest.mark.parametrize("quant_type", BLOCK_TYPES)
def test_same_bytes_for_all_threads_and_instruction_sets(quant_type: str) -> None:
    fed = _fed(quant_type)
    for outputs in (OUTPUTS, None):
        expected = refine_codes(quant_type, WEIGHTS, fed, INPUTS, outputs, threads=1, instruction_set="baseline")
        for threads in (1, 2, 4):
            for level in instruction_sets():
                found = refine_codes(quant_type, WEIGHTS, fed, INPUTS, outputs, threads=threads, instruction_set=level)
                np.testing.assert_array_equal(found, expected)


def _witness(levels: np.ndarray, scale: float, outputs: np.ndarray) -> np.ndarray:
    """One sweep over Q8_0 codes of one scale, in double precision: rows in order, columns in order."""
    inputs, outputs = INPUTS.astype(np.float64), outputs.astype(np.float64)
    levels = levels.astype(np.float64)
    error = scale * levels - WEIGHTS.astype(np.float64)
    for row in range(ROWS):
        for column in range(COLUMNS):
            curvature = outputs[row, row] * inputs[column, column]
            gradient = outputs[row] @ error @ inputs[:, column]
            level = np.clip(np.rint(levels[row, column] - gradient / curvature / scale), -127, 127)
            change = scale * (level - levels[row, column])
            if change * (2 * gradient + change * curvature) < 0:
                error[row, column] += change
                levels[row, column] = level
    return scale * levels


def test_it_is_what_the_witness_computes() -> None:
    """The kernel goes through a group column by column, the witness row by row: the same where rows are apart."""
    fed = quantize("Q8_0", WEIGHTS, None).reshape(-1, 34)
    fed[:, :2] = np.frombuffer(np.float16(2**-10).tobytes(), np.uint8)  # one coarse scale: many codes are to change
    fed = fed.reshape(ROWS, -1)
    levels = dequantize("Q8_0", fed, COLUMNS) * 2**10
    apart = np.eye(ROWS, dtype=np.float32)
    found = dequantize("Q8_0", refine_codes("Q8_0", WEIGHTS, fed, INPUTS, apart, sweeps=1), COLUMNS)
    expected = _witness(levels, 2**-10, apart)
    assert np.mean(found != expected) < 0.002  # halfway between two codes
    assert np.mean(found != levels * 2**-10) > 0.2
    together = refine_codes("Q8_0", WEIGHTS, fed, INPUTS, OUTPUTS, sweeps=1)
    witness = _witness(levels, 2**-10, OUTPUTS) - WEIGHTS.astype(np.float64)
    ours = _loss("Q8_0", together)
    theirs = np.einsum("ij,ij->", OUTPUTS.astype(np.float64) @ witness @ INPUTS.astype(np.float64), witness)
    assert ours == pytest.approx(theirs, rel=0.03)


@pytest.mark.parametrize("quant_type", ["Q4_K", "IQ3_S"])
def test_without_outputs_rows_do_not_depend_on_each_other(quant_type: str) -> None:
    fed = _fed(quant_type)
    whole = refine_codes(quant_type, WEIGHTS, fed, INPUTS)
    np.testing.assert_array_equal(
        whole,
        np.concatenate(
            [refine_codes(quant_type, WEIGHTS[i : i + 7], fed[i : i + 7], INPUTS) for i in range(0, ROWS, 7)]
        ),
    )
    np.testing.assert_array_equal(whole, refine_codes(quant_type, WEIGHTS, fed, INPUTS, np.eye(ROWS, dtype=np.float32)))
    assert _loss(quant_type, whole, np.eye(ROWS)) < _loss(quant_type, fed, np.eye(ROWS))


def test_a_weight_alone_is_already_best() -> None:
    plain = quantize("Q4_0", WEIGHTS, None)
    np.testing.assert_array_equal(plain, refine_codes("Q4_0", WEIGHTS, plain, np.eye(COLUMNS, dtype=np.float32)))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 35),
    exponent=st.integers(-120, 120),
    quant_type=st.sampled_from(["Q4_K", "IQ2_XXS", "MXFP4", "IQ1_M", "Q2_K"]),
)
def test_any_magnitude_gives_finite_weights_and_no_larger_sum(rows: int, exponent: int, quant_type: str) -> None:
    weights = np.ldexp(WEIGHTS[:rows], exponent).astype(np.float32)
    fed = quantize_with_feedback(quant_type, weights, feedback_factor(INPUTS, 0.0))
    found = refine_codes(quant_type, weights, fed, INPUTS)
    before, after = (dequantize(quant_type, each, COLUMNS).astype(np.float64) for each in (fed, found))
    assert np.isfinite(after).all() or not np.isfinite(before).all()
    if np.isfinite(before).all():
        sums = [
            np.einsum("ij,ij->", (each - weights) @ INPUTS.astype(np.float64), each - weights)
            for each in (before, after)
        ]
        assert sums[1] <= sums[0] * (1 + 1e-4)


def test_what_can_mean_nothing_is_refused() -> None:
    fed = _fed("Q4_K")
    with pytest.raises(ValueError, match="rows of 288 bytes are not these weights in Q4_K"):
        refine_codes("Q4_K", WEIGHTS[:3], fed, INPUTS)
    with pytest.raises(ValueError, match="a Gram matrix of 40 x 40 for a row length of 512"):
        refine_codes("Q4_K", WEIGHTS, fed, OUTPUTS)
    with pytest.raises(ValueError, match="sweeps is negative"):
        refine_codes("Q4_K", WEIGHTS, fed, INPUTS, sweeps=-1)
    with pytest.raises(ValueError, match="stores every weight by itself"):
        refine_codes("F16", WEIGHTS, quantize("F16", WEIGHTS), INPUTS)
    for value, message in ((np.nan, "gram .1, 2. is NaN"), (0.0, "gram .1, 1. is on the diagonal, but not")):
        wrong = INPUTS.copy()
        wrong[1, 2 if np.isnan(value) else 1] = value
        with pytest.raises(ValueError, match=message):
            refine_codes("Q4_K", WEIGHTS, fed, wrong)
    with pytest.raises(ValueError, match=r"weight \[0, 3\] is NaN"):
        refine_codes("Q4_K", np.where(np.arange(COLUMNS) == 3, np.nan, WEIGHTS).astype(np.float32), fed, INPUTS)
