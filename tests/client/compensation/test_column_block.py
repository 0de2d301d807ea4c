"""The order of columns: runs with the largest inputs first, and bytes in the places of the columns they are of."""

from itertools import pairwise

import numpy as np
import pytest

import raq_native
from raq_client.compensation.column_block import ColumnBlock, run_of
from raq_client.compensation.compensate import MatrixFactor
from raq_client.compensation.gram import Columns, MatrixGram

TYPES = {each.name: each for each in raq_native.QUANT_TYPES if each.weights_per_block > 1}


def _gram(length: int) -> np.ndarray:
    """Inputs that vary together, the later ones larger."""
    random = np.random.default_rng(length)
    inputs = random.standard_normal((4 * length, 8)) @ random.standard_normal((8, length))
    inputs = (inputs + random.standard_normal(inputs.shape)) * np.geomspace(0.1, 1, length)
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


def _weights(length: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((24, length)).astype(np.float32)


def _rounded(quant_type: str, gram: np.ndarray, weights: np.ndarray) -> np.ndarray:
    block = ColumnBlock.of(Columns(0, len(gram)), gram, run_of(len(gram), TYPES[quant_type].weights_per_block))
    factor = MatrixFactor(MatrixGram((gram,), len(gram), np.zeros((0, len(gram)), np.float32)), (block,))
    return factor.quantize(quant_type, weights, threads=1)


@pytest.mark.parametrize("length", [32, 96, 576, 640, 1024])
def test_larger_inputs_come_first_and_every_column_once(length: int) -> None:
    gram = _gram(length)
    block = ColumnBlock.of(Columns(0, length), gram, run_of(length, 32))
    columns = block.ordered(np.arange(length, dtype=np.float32)[None])[0].astype(int)
    assert sorted(columns) == list(range(length))
    means = np.diagonal(gram)[columns].reshape(len(block.runs), -1).mean(axis=1)
    assert all(first >= second for first, second in pairwise(means))
    assert block.runs[0] == len(block.runs) - 1  # the last columns are the largest
    np.testing.assert_array_equal(block.metric.factor, np.triu(block.metric.factor))


FITTING = [
    (name, length) for name, each in TYPES.items() for length in (576, 640, 768) if not length % each.weights_per_block
]


@pytest.mark.parametrize(("quant_type", "length"), FITTING)
def test_a_block_of_a_type_is_never_divided(quant_type: str, length: int) -> None:
    each = TYPES[quant_type].weights_per_block
    gram, weights = _gram(length), _weights(length)
    run = run_of(length, each)
    assert run % each == 0 == length % run
    # Columns elsewhere give the same bytes elsewhere: the order depends on their inputs alone.
    moved = np.random.default_rng(2).permutation(length // run)
    places = (moved[:, None] * run + np.arange(run)).ravel()
    found = _rounded(quant_type, gram, weights)
    again = _rounded(quant_type, gram[np.ix_(places, places)], np.ascontiguousarray(weights[:, places]))
    size = run // each * TYPES[quant_type].bytes_per_block
    np.testing.assert_array_equal(again.reshape(24, -1, size), found.reshape(24, -1, size)[:, moved])


def test_the_order_lowers_the_error() -> None:
    gram, weights = _gram(576), _weights(576)

    def error(blocks: np.ndarray) -> float:
        changes = raq_native.dequantize("Q4_0", blocks, 576).astype(np.float64) - weights
        return float(np.einsum("ij,jk,ik->", changes, gram, changes))

    in_place = raq_native.quantize_with_feedback("Q4_0", weights, raq_native.feedback_factor(gram, 0.05))
    damped = gram + np.float32(0.05 * np.diagonal(gram).mean()) * np.eye(576, dtype=np.float32)
    in_place = raq_native.refine_codes("Q4_0", weights, in_place, damped, sweeps=4)
    assert error(_rounded("Q4_0", gram, weights)) < 0.97 * error(in_place)


def test_columns_within_wider_rows_are_theirs() -> None:
    weights = np.arange(12, dtype=np.float32).reshape(2, 6)
    block = ColumnBlock(Columns(2, 6), np.array([1, 0]), ColumnBlock.of(Columns(0, 32), _gram(32), 32).metric)
    assert block.ordered(weights).tolist() == [[4, 5, 2, 3], [10, 11, 8, 9]]
    assert block.restored(np.array([[4, 5, 2, 3]], np.uint8)).tolist() == [[2, 3, 4, 5]]
