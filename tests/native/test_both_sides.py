"""Error feedback between rows too: as a NumPy witness, by laws, and the same bytes everywhere."""

import numpy as np
import pytest

from raq_native import dequantize, feedback_factor, instruction_sets, quantize, quantize_with_feedback

ROWS, COLUMNS, GROUP = 40, 256, 16


def _gram(size: int, seed: int) -> np.ndarray:
    """The mean of x xᵀ over correlated inputs."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(4 * size, size)) @ (
        rng.normal(size=(size, size)) * np.arange(1, size + 1)[:, None] ** -0.7
    )
    gram: np.ndarray = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    return gram


WEIGHTS = (np.random.default_rng(5).standard_t(5, (ROWS, COLUMNS)) * 0.02).astype(np.float32)
INPUTS, OUTPUTS = _gram(COLUMNS, 1), _gram(ROWS, 2)
FACTOR, ROW_FACTOR = feedback_factor(INPUTS, 0.05), feedback_factor(OUTPUTS, 0.1)


def _witness(quant_type: str) -> np.ndarray:
    """The blocks, group by group, in double precision."""
    left, factor = WEIGHTS.astype(np.float64), ROW_FACTOR.astype(np.float64)
    parts = []
    for first in range(0, ROWS, GROUP):
        now, later = slice(first, first + GROUP), slice(first + GROUP, ROWS)
        parts.append(quantize_with_feedback(quant_type, left[now].astype(np.float32), FACTOR))
        error = left[now] - dequantize(quant_type, parts[-1], COLUMNS)
        left[later] -= factor[now, later].T @ np.linalg.solve(factor[now, now].T, error)
    return np.concatenate(parts)


def _loss(quant_type: str, blocks: np.ndarray) -> float:
    """tr(G ΔW H ΔWᵀ)."""
    change = dequantize(quant_type, blocks, COLUMNS).astype(np.float64) - WEIGHTS
    return float(np.trace(OUTPUTS.astype(np.float64) @ change @ INPUTS.astype(np.float64) @ change.T))


@pytest.mark.parametrize("quant_type", ["Q8_0", "Q4_K", "Q3_K", "IQ4_XS", "IQ3_S", "IQ2_S"])
def test_it_is_what_the_witness_computes(quant_type: str) -> None:
    found = quantize_with_feedback(quant_type, WEIGHTS, FACTOR, ROW_FACTOR)
    expected = _witness(quant_type)
    # The witness works in double precision: a weight halfway between two codes may become the other one.
    assert np.mean(found != expected) < 0.02
    assert _loss(quant_type, found) == pytest.approx(_loss(quant_type, expected), rel=0.02)


@pytest.mark.parametrize("quant_type", ["Q4_K", "Q3_K", "IQ3_S"])
def test_the_loss_is_below_that_of_columns_alone(quant_type: str) -> None:
    one = _loss(quant_type, quantize_with_feedback(quant_type, WEIGHTS, FACTOR))
    assert _loss(quant_type, quantize_with_feedback(quant_type, WEIGHTS, FACTOR, ROW_FACTOR)) < 0.9 * one
    assert one < 0.9 * _loss(quant_type, quantize(quant_type, WEIGHTS, None))


@pytest.mark.parametrize("quant_type", ["Q4_0", "IQ2_XXS"])
def test_rows_that_do_not_vary_together_are_rounded_as_alone(quant_type: str) -> None:
    alone = quantize_with_feedback(quant_type, WEIGHTS, FACTOR)
    diagonal = np.diag(np.arange(1, ROWS + 1)).astype(np.float32)
    np.testing.assert_array_equal(quantize_with_feedback(quant_type, WEIGHTS, FACTOR, diagonal), alone)


@pytest.mark.parametrize("quant_type", ["Q5_K", "IQ3_XXS", "IQ1_M"])
def test_threads_and_instruction_sets_change_no_byte(quant_type: str) -> None:
    expected = quantize_with_feedback(quant_type, WEIGHTS, FACTOR, ROW_FACTOR, threads=1, instruction_set="baseline")
    for name in instruction_sets():
        for threads in (1, 2, 4):
            found = quantize_with_feedback(
                quant_type, WEIGHTS, FACTOR, ROW_FACTOR, threads=threads, instruction_set=name
            )
            np.testing.assert_array_equal(found, expected)


def _in_order(quant_type: str, weights: np.ndarray, factor: np.ndarray, of_rows: np.ndarray) -> np.ndarray:
    """The blocks, group by group in float32: from a weight products are subtracted in the order of rows."""
    left, parts = weights.copy(), []
    for first in range(0, len(left), GROUP):
        group, later = left[first : first + GROUP], slice(first + GROUP, None)
        parts.append(quantize_with_feedback(quant_type, group.copy(), factor))
        error = group - dequantize(quant_type, parts[-1], left.shape[1])
        for k in range(len(group)):
            for i in range(k):
                error[k] -= of_rows[first + i, first + k] * error[i]
            error[k] /= of_rows[first + k, first + k]
        for k in range(len(group)):
            left[later] -= of_rows[first + k, later, None] * error[k]
    return np.concatenate(parts)


@pytest.mark.parametrize(("rows", "columns"), [(1, 800), (16, 544), (17, 288), (70, 32), (50, 544)])
def test_spans_of_columns_and_threads_on_groups_change_no_byte(rows: int, columns: int) -> None:
    weights = (np.random.default_rng(rows).standard_t(5, (rows, columns)) * 0.02).astype(np.float32)
    factor, of_rows = feedback_factor(_gram(columns, 3), 0.05), feedback_factor(_gram(rows, 4), 0.1)
    expected = _in_order("Q4_0", weights, factor, of_rows)
    for name in instruction_sets():
        for threads in (1, 2, 5):
            found = quantize_with_feedback("Q4_0", weights, factor, of_rows, threads=threads, instruction_set=name)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_first_weight_that_is_not_finite_is_named(threads: int) -> None:
    weights = np.tile(WEIGHTS, (2, 3))
    weights[50, 5] = weights[21, 700] = weights[22, 3] = weights[60, 0] = np.nan
    factor, of_rows = np.eye(768, dtype=np.float32), np.eye(80, dtype=np.float32)
    with pytest.raises(ValueError, match=r"weight \[21, 700\] is NaN or infinite"):
        quantize_with_feedback("Q4_0", weights, factor, of_rows, threads=threads)


def test_a_row_length_that_fills_no_vector() -> None:
    odd = np.ascontiguousarray(WEIGHTS[:, :32][:33])
    factor, rows = feedback_factor(_gram(32, 3), 0.1), feedback_factor(_gram(33, 4), 0.1)
    found = quantize_with_feedback("Q4_0", odd, factor, rows)
    np.testing.assert_array_equal(found[:16], quantize_with_feedback("Q4_0", odd[:16].copy(), factor))


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (ROW_FACTOR[:8, :8].copy(), "8 x 8 for a number of rows of 40"),
        (np.full_like(ROW_FACTOR, np.nan), "NaN or infinite|not a number|is nan"),
        (np.zeros_like(ROW_FACTOR), "not positive|diagonal"),
    ],
)
def test_what_is_no_factor_is_refused(factor: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_with_feedback("Q4_0", WEIGHTS, FACTOR, factor)
