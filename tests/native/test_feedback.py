"""Rounding with error feedback: as the NumPy of `support.feedback`, by laws, and the same bytes everywhere."""

from functools import cache

import numpy as np
import pytest

from raq_client.compensation.compensate import Effort
from raq_native import QUANT_TYPES, dequantize, instruction_sets, quantize, quantize_with_feedback
from support.feedback import rounding as feedback
from support.feedback.code_layout import CodeLayout, code_layout
from support.feedback.factors import upper_factor
from support.hard_rows import hard_rows

BLOCKS = {
    quant_type.name: quant_type.weights_per_block for quant_type in QUANT_TYPES if quant_type.weights_per_block > 1
}
WITNESSED = [
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4", "Q1_0", "Q2_0"),
]
"""Types with one code per weight; of TQ2_0 the witness would write the fourth code, which is no trit."""
ROUNDED_BY_STORED_SCALES = [
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4"),
    *("TQ1_0", "TQ2_0", "Q1_0", "Q2_0"),
]
"""Types whose search rounds by the very scales that it stores; the others stretch the scales afterwards."""
GROUPS = {"IQ3_S": 4, "IQ3_XXS": 8, "IQ2_S": 8, "IQ2_XS": 8, "IQ2_XXS": 8}
"""Columns whose vectors and signs are chosen together."""
SUB_BLOCKS = {"IQ3_S": 32, "IQ3_XXS": 32, "IQ2_S": 16, "IQ2_XS": 16, "IQ2_XXS": 32}


def heavy_tailed(rows: int, columns: int, seed: int = 7) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(5, (rows, columns)) * 0.02).astype(np.float32)


@cache
def correlated(columns: int, decay: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of x xᵀ over inputs whose variances along random directions fall as 1 / k^(2 decay); its factor."""
    rng = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    inputs = (rng.normal(size=(4 * columns, columns)) * np.arange(1.0, columns + 1) ** -decay) @ directions
    inputs *= rng.gamma(2, 0.5, columns)
    gram: np.ndarray = inputs.T @ inputs / len(inputs)
    return gram.astype(np.float32), upper_factor(gram.astype(np.float32))


def layout_of(name: str) -> CodeLayout:
    with np.errstate(divide="ignore", invalid="ignore"):  # the worth of the sign of a zero, in a table with one
        layout = code_layout(name)
    assert layout is not None
    return layout


def quadratic_error(weights: np.ndarray, restored: np.ndarray, gram: np.ndarray) -> float:
    difference = weights.astype(np.float64) - restored
    return float(((difference @ gram.astype(np.float64)) * difference).sum())


def diagonal_factor(columns: int) -> np.ndarray:
    return np.diag(np.random.default_rng(3).uniform(0.5, 2, columns)).astype(np.float32)


def importance_of(factor: np.ndarray) -> np.ndarray:
    importance: np.ndarray = 1 / np.square(np.diagonal(factor))
    return importance.astype(np.float32)


@pytest.mark.parametrize(
    ("name", "effort"),
    # Q8_0 with the least error clips weights at -127, which is our lowest code; the witness writes -128, too.
    [(name, effort) for name in WITNESSED for effort in ("fast", "best") if (name, effort) != ("Q8_0", "best")],
)
def test_writes_what_numpy_writes(name: str, effort: Effort, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, layout = heavy_tailed(37, 768), layout_of(name)
    gram, factor = correlated(768, 0.4, seed=1)
    monkeypatch.setattr(feedback, "MACRO", 768)  # errors one by one, in our order
    theirs = feedback.compensated(layout, weights, factor, effort=effort, threads=1)
    ours = quantize_with_feedback(name, weights, factor, effort=effort)
    # A base and a step of NumPy are differences of restored weights, so a code at a tie may be the other one.
    assert np.mean((ours == theirs).all(axis=1)) >= 0.9
    errors = [quadratic_error(weights, dequantize(name, blocks, 768), gram) for blocks in (ours, theirs)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)


@pytest.mark.parametrize("name", WITNESSED)
def test_errors_spread_by_products_of_matrices_differ_by_rounding_alone(name: str) -> None:
    weights, layout = heavy_tailed(64, 768), layout_of(name)
    gram, factor = correlated(768, 0.4, seed=1)
    theirs = feedback.compensated(layout, weights, factor, threads=1)
    # Another last bit now and then turns a choice between scales that are equally good, and with it the row's rest.
    ours = quantize_with_feedback(name, weights, factor)
    assert np.mean(ours == theirs) >= 0.95
    errors = [quadratic_error(weights, dequantize(name, blocks, 768), gram) for blocks in (ours, theirs)]
    assert errors[0] == pytest.approx(errors[1], rel=2e-2)


@pytest.mark.parametrize("name", ROUNDED_BY_STORED_SCALES)
def test_a_diagonal_factor_is_plain_rounding_by_importance(name: str) -> None:
    factor = diagonal_factor(768)
    for weights in (heavy_tailed(37, 768), hard_rows(768)):
        expected, found = quantize(name, weights, importance_of(factor)), quantize_with_feedback(name, weights, factor)
        if name == "Q1_0":  # the sign of weights whose scale is stored as zero may differ
            assert np.array_equal(dequantize(name, found, 768), dequantize(name, expected, 768))
        else:
            assert np.array_equal(found, expected)
    alike = quantize_with_feedback(name, heavy_tailed(37, 768), np.eye(768, dtype=np.float32))
    assert np.array_equal(alike, quantize(name, heavy_tailed(37, 768)))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_diagonal_factor_leaves_no_more_error_than_plain_rounding(name: str) -> None:
    weights, factor = heavy_tailed(37, 768), diagonal_factor(768)
    importance = importance_of(factor)
    found, plain = (
        np.sum(importance * np.square(weights - dequantize(name, blocks, 768).astype(np.float64)), axis=1)
        for blocks in (quantize_with_feedback(name, weights, factor), quantize(name, weights, importance))
    )
    assert np.all(found <= plain * (1 + 1e-6))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_below_plain_rounding_where_inputs_are_correlated(name: str, seed: int) -> None:
    columns = 768 if seed else 512
    weights = heavy_tailed(24, columns, seed)
    gram, factor = correlated(columns, 0.5, seed)
    ours = dequantize(name, quantize_with_feedback(name, weights, factor), columns)
    plain = dequantize(name, quantize(name, weights, np.ascontiguousarray(np.diagonal(gram))), columns)
    assert quadratic_error(weights, ours, gram) < 0.75 * quadratic_error(weights, plain, gram)


@pytest.mark.parametrize("name", BLOCKS)
def test_later_blocks_get_the_errors_of_earlier_ones(name: str) -> None:
    """A factor without entries between columns of one block: a block is then rounded alone, on updated weights."""
    length, columns, rng = BLOCKS[name], 1024, np.random.default_rng(4)
    block_of = np.arange(columns) // length
    factor = (rng.normal(0, 0.03, (columns, columns)) * (block_of[:, None] < block_of)).astype(np.float32)
    factor += diagonal_factor(columns)
    weights = heavy_tailed(19, columns)
    left, expected = weights.copy(), []
    for start in range(0, columns, length):
        inside = slice(start, start + length)
        block = np.ascontiguousarray(left[:, inside])
        expected.append(quantize_with_feedback(name, block, np.diag(np.diagonal(factor)[inside])))
        restored = dequantize(name, expected[-1], length)
        for i in range(length):
            error = (block[:, i] - restored[:, i]) / factor[start + i, start + i]
            left[:, start + length :] -= error[:, None] * factor[start + i, start + length :]
    assert np.array_equal(quantize_with_feedback(name, weights, factor), np.concatenate(expected, axis=1))


@pytest.mark.parametrize("name", GROUPS)
def test_vectors_are_the_best_for_the_weights_as_they_have_become(name: str) -> None:
    """No vector of another group with the same scale is nearer, by importance, to what feedback made of the weights."""
    weights, factor = heavy_tailed(40, 512), correlated(512, 0.5, seed=0)[1]
    importance, group = importance_of(factor).astype(np.float64), GROUPS[name]
    restored = dequantize(name, quantize_with_feedback(name, weights, factor), 512).astype(np.float64)
    left, checked = weights.astype(np.float64), 0
    for start in range(0, 512, group):
        inside = slice(start, start + group)
        became, chosen, h = left[:, inside].copy(), restored[:, inside], importance[inside]
        cost = np.sum(h * np.square(became - chosen), axis=1)
        sub_block = start // SUB_BLOCKS[name] * SUB_BLOCKS[name]
        for other in range(sub_block, sub_block + SUB_BLOCKS[name], group):
            vector = np.copysign(restored[:, other : other + group], chosen)
            assert np.all(cost <= np.sum(h * np.square(became - vector), axis=1) * (1 + 1e-4))
            checked += other != start
        for j in range(start, start + group):
            left[:, j + 1 :] -= ((left[:, j] - restored[:, j]) / factor[j, j])[:, None] * factor[j, j + 1 :]
    assert checked > 50


@pytest.mark.parametrize("name", BLOCKS)
def test_the_same_bytes_for_all_threads_and_instruction_sets(name: str) -> None:
    columns = 576 if BLOCKS[name] <= 64 else 512
    _, factor = correlated(columns, 0.5, seed=0)
    for weights in (heavy_tailed(300, columns), hard_rows(columns)):
        expected = quantize_with_feedback(name, weights, factor, threads=1)
        assert np.isfinite(dequantize(name, expected, columns)).all()
        assert np.array_equal(quantize_with_feedback(name, weights[:21], factor), expected[:21])
        for threads in (2, 4):
            assert np.array_equal(quantize_with_feedback(name, weights, factor, threads=threads), expected)
        for level in instruction_sets():
            found = quantize_with_feedback(name, weights, factor, instruction_set=level)
            assert np.array_equal(found, expected), level


@pytest.mark.parametrize("name", BLOCKS)
def test_no_rows_and_no_columns(name: str) -> None:
    for rows, columns in ((0, 256), (3, 0)):
        factor = np.eye(columns, dtype=np.float32)
        blocks = quantize_with_feedback(name, np.zeros((rows, columns), np.float32), factor)
        assert blocks.shape == quantize(name, np.zeros((rows, columns), np.float32)).shape


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_types_that_store_every_weight_by_itself(name: str) -> None:
    with pytest.raises(ValueError, match=f"errors cannot be fed forward in {name}: it stores every weight by itself"):
        quantize_with_feedback(name, np.zeros((1, 32), np.float32), np.eye(32, dtype=np.float32))


@pytest.mark.parametrize("shape", [(32, 64), (64, 32), (32, 32)])
def test_factor_of_another_shape(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"a factor of {shape[0]} x {shape[1]} for a row length of 64"):
        quantize_with_feedback("Q8_0", np.zeros((1, 64), np.float32), np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((3, 9), np.nan, "NaN or infinite"),
        ((3, 9), -np.inf, "NaN or infinite"),
        ((9, 3), np.nan, "NaN or infinite"),
        ((9, 3), 0.1, "below the diagonal, but not zero"),
        ((5, 5), 0.0, "on the diagonal, but not positive"),
        ((5, 5), -1.0, "on the diagonal, but not positive"),
        ((5, 5), 1e-25, "on the diagonal, but its square is too small or too large"),
        ((5, 5), 1e25, "on the diagonal, but its square is too small or too large"),
    ],
)
def test_factor_that_is_none(place: tuple[int, int], value: float, message: str) -> None:
    factor = np.eye(64, dtype=np.float32)
    factor[place] = value
    with pytest.raises(ValueError, match=rf"factor \[{place[0]}, {place[1]}\] is {message}"):
        quantize_with_feedback("Q8_0", np.zeros((1, 64), np.float32), factor)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "IQ2_S"])
def test_the_first_weight_that_is_not_finite_is_named(name: str) -> None:
    weights = np.ones((900, 256), np.float32)
    weights[700, 3] = weights[533, 17] = np.nan
    for threads in (1, 2):
        with pytest.raises(ValueError, match=r"weight \[533, 17\] is NaN or infinite"):
            quantize_with_feedback(name, weights, np.eye(256, dtype=np.float32), threads=threads)


def test_row_that_the_block_does_not_divide() -> None:
    with pytest.raises(ValueError, match="row length 288 is not a multiple of 256, the block of Q4_K"):
        quantize_with_feedback("Q4_K", np.zeros((1, 288), np.float32), np.eye(288, dtype=np.float32))


@pytest.mark.parametrize("factor", [np.eye(32), np.asfortranarray(np.eye(64, dtype=np.float32))[:32, :32]])
def test_arrays_are_never_converted(factor: np.ndarray) -> None:
    with pytest.raises(TypeError):
        quantize_with_feedback("Q8_0", np.zeros((1, 32), np.float32), factor)
