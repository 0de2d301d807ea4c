import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raq_native
from raq_client.compensation.gram import MatrixGram, column_blocks
from raq_client.compensation.row_feedback import GROUP, RowBlock, RowFactor

ROWS, COLUMNS = 64, 256


def _gradients(count: int, seed: int, *, rows: int = ROWS) -> np.ndarray:
    """Gradients in which few directions hold most of the length, the same ones for every seed."""
    directions, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((rows, rows)))
    sizes = np.arange(1, rows + 1) ** -1.0
    found: np.ndarray = np.random.default_rng(seed).standard_normal((count, rows)) * sizes @ directions.T
    return found.astype(np.float32)


def _outputs(gradients: np.ndarray, held_out: np.ndarray, widest: int = ROWS) -> MatrixGram:
    parts = [gradients[:, each.first : each.last] for each in column_blocks(gradients.shape[1], widest)]
    return MatrixGram(tuple(part.T @ part / np.float32(len(part)) for part in parts), len(gradients), held_out)


def _white_noise(weights: np.ndarray, _block: RowBlock, _threads: int) -> np.ndarray:
    """The rows as bytes."""
    return np.ascontiguousarray(weights).view(np.uint8)


def test_the_gain_is_what_rounding_with_independent_errors_leaves() -> None:
    factor = RowFactor.of(_outputs(_gradients(4000, 2), _gradients(300, 3)), 0.25)
    assert factor is not None
    (block,) = factor.blocks
    random, fresh = np.random.default_rng(7), _gradients(2000, 4).astype(np.float64)
    errors = random.standard_normal((ROWS, 400))
    change = errors.copy()
    upper = block.metric.factor.astype(np.float64)
    for first in range(0, ROWS, GROUP):
        now, later = slice(first, first + GROUP), slice(first + GROUP, ROWS)
        change[later] += upper[now, later].T @ np.linalg.solve(upper[now, now].T, errors[now])
    in_place, alone = np.empty_like(change), np.empty_like(change)
    in_place[block.order], alone[block.order] = change, errors
    left = np.square(fresh @ in_place).sum() / np.square(fresh @ alone).sum()
    assert factor.gain == pytest.approx(left, rel=0.1)
    assert factor.gain < 0.7


def test_a_real_type_comes_close_to_the_gain() -> None:
    weights = (np.random.default_rng(5).standard_t(5, (ROWS, COLUMNS)) * 0.02).astype(np.float32)
    factor = RowFactor.of(_outputs(_gradients(4000, 2), _gradients(300, 3)), 0.25)
    assert factor is not None
    inputs = np.eye(COLUMNS, dtype=np.float32)
    fresh = _gradients(2000, 4)

    def loss(blocks: np.ndarray) -> float:
        return float(np.square(fresh @ (raq_native.dequantize("Q4_K", blocks, COLUMNS) - weights)).sum())

    fed = factor.quantize(
        weights, lambda rows, block, _: raq_native.quantize_with_feedback("Q4_K", rows, inputs, block.metric.factor), 1
    )
    alone = raq_native.quantize_with_feedback("Q4_K", weights, inputs)
    assert loss(fed) / loss(alone) == pytest.approx(factor.gain, rel=0.25)


def test_rows_come_back_in_their_places() -> None:
    weights = np.arange(3 * 512 * 4, dtype=np.float32).reshape(3 * 512, 4)
    gradients = _gradients(800, 2, rows=3 * 512)
    factor = RowFactor.of(_outputs(gradients, _gradients(50, 3, rows=3 * 512), widest=512), 0.25)
    assert factor is not None
    assert [len(block.order) for block in factor.blocks] == [512, 512, 512]
    for threads in (1, 4):
        np.testing.assert_array_equal(factor.quantize(weights, _white_noise, threads), weights.view(np.uint8))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_other_held_out_gradients_refuse_what_does_not_help(seed: int) -> None:
    turned = _gradients(300, seed)[:, ::-1].copy()
    factor = RowFactor.of(_outputs(_gradients(4000, 2), turned), 0.25)
    assert factor is None or factor.gain < 1


def test_without_held_out_gradients_or_with_few_tokens_rows_are_rounded_alone() -> None:
    assert RowFactor.of(_outputs(_gradients(400, 2), np.zeros((0, ROWS), np.float32)), 0.25) is None
    assert RowFactor.of(_outputs(_gradients(10, 2), _gradients(30, 3)), 0.25) is None


def test_the_group_is_the_kernels() -> None:
    """Rows of the first group are rounded as they are; the next one has other blocks than alone."""
    weights = (np.random.default_rng(6).standard_normal((2 * GROUP, COLUMNS)) * 0.02).astype(np.float32)
    gradients = _gradients(400, 3, rows=2 * GROUP)
    upper = raq_native.feedback_factor(gradients.T @ gradients / np.float32(400), 0.1)
    eye = np.eye(COLUMNS, dtype=np.float32)
    fed, alone = (raq_native.quantize_with_feedback("Q8_0", weights, eye, of_rows) for of_rows in (upper, None))
    np.testing.assert_array_equal(fed[:GROUP], alone[:GROUP])
    assert (fed[GROUP:] != alone[GROUP:]).any(axis=1).all()
