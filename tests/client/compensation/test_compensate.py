from dataclasses import replace

import numpy as np
import pytest

import raq_native
from raq_client.compensation.compensate import SWEEPS, Compensation
from raq_client.compensation.factor import Metric, upper_factor
from raq_client.compensation.gram import Entry, Gram, InMemory, MatrixGram, column_blocks
from raq_client.quantizing.rounding import Rounding, sampled_rows
from raq_solver.errors import InvalidInput
from raq_solver.quant_types import CATALOGUE
from raq_solver.tensors import Tensor

LENGTH, ROWS = 512, 80
TENSOR = Tensor("blk.0.ffn_up.weight", (LENGTH, ROWS), CATALOGUE["F16"])


def _inputs(count: int, seed: int, rank: int = 12) -> np.ndarray:
    """Unit inputs whose columns vary together."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((count, rank)) @ np.random.default_rng(1).standard_normal((rank, LENGTH))
    rows = mixed + 0.3 * random.standard_normal((count, LENGTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _gram(counted: np.ndarray, held_out: np.ndarray, widest: int = LENGTH, tokens: int | None = None) -> Gram:
    ranges = column_blocks(LENGTH, widest)
    parts = [np.ascontiguousarray(counted[:, each.first : each.last]) for each in ranges]
    tokens = len(counted) if tokens is None else tokens
    matrix = MatrixGram(tuple(part.T @ part / np.float32(len(counted)) for part in parts), tokens, held_out)
    entries = {TENSOR.name: Entry.of([matrix], 10, widest)}
    return Gram(entries, {TENSOR.name: TENSOR.name}, InMemory({TENSOR.name: [matrix]}), (), 10, 64, "a model")


def _weights() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((ROWS, LENGTH)).astype(np.float32)


def _error(quant_type: str, blocks: np.ndarray, inputs: np.ndarray) -> float:
    return float(np.square((raq_native.dequantize(quant_type, blocks, LENGTH) - _weights()) @ inputs.T).sum())


def _of_matrix(gram: Gram, quant_type: str = "Q4_K"):  # noqa: ANN202
    weights = _weights()
    return Rounding(compensation=Compensation(gram)).of_matrix(
        TENSOR, 0, CATALOGUE[quant_type], lambda places: weights[places]
    )


@pytest.mark.parametrize("quant_type", ["Q4_K", "Q3_K", "Q8_0", "IQ3_S", "IQ4_XS", "Q4_0"])
def test_outputs_are_nearer_on_inputs_that_were_not_counted(quant_type: str) -> None:
    found = _of_matrix(_gram(_inputs(2000, 3), _inputs(100, 4)), quant_type)
    fresh = _inputs(500, 5)
    plain = raq_native.quantize(quant_type, _weights(), None)
    assert found.factor is not None
    reached = _error(quant_type, found.blocks(_weights()), fresh) / _error(quant_type, plain, fresh)
    assert reached < 0.7
    # The gain is of other inputs and of some of the rows: an estimate of what is reached.
    assert found.gain == pytest.approx(reached, rel=0.15)


def test_statistics_of_other_inputs_are_not_used() -> None:
    other = np.random.default_rng(9).permutation(LENGTH)
    found = _of_matrix(_gram(_inputs(2000, 3)[:, other], _inputs(100, 4)))
    assert found.factor is None
    assert found.gain == 1
    np.testing.assert_array_equal(found.blocks(_weights()), raq_native.quantize("Q4_K", _weights(), None))


def test_few_tokens_are_not_used() -> None:
    gram = _gram(_inputs(2000, 3), _inputs(100, 4), tokens=LENGTH // 4 - 1)
    assert _of_matrix(gram).factor is None


def test_without_held_out_inputs_nothing_is_compensated() -> None:
    gram = _gram(_inputs(2000, 3), np.zeros((0, LENGTH), np.float32))
    assert _of_matrix(gram).factor is None


def test_blocks_of_columns_are_rounded_by_themselves() -> None:
    whole, parted = (_gram(_inputs(2000, 3), _inputs(100, 4), widest) for widest in (512, 256))
    blocks = _of_matrix(parted).blocks(_weights())
    ours = []
    for first in (0, 256):
        part = np.ascontiguousarray(_weights()[:, first : first + 256])
        inputs = Metric.of(parted.source.matrix(TENSOR.name, 0).blocks[first // 256])
        fed = raq_native.quantize_with_feedback("Q4_K", part, inputs.factor)
        ours.append(raq_native.refine_codes("Q4_K", part, fed, inputs.matrix, sweeps=SWEEPS))
    np.testing.assert_array_equal(blocks, np.concatenate(ours, axis=1))
    fresh = _inputs(500, 5)
    plain = _error("Q4_K", raq_native.quantize("Q4_K", _weights(), None), fresh)
    assert _error("Q4_K", _of_matrix(whole).blocks(_weights()), fresh) < _error("Q4_K", blocks, fresh) < plain


def test_plain_floats_and_tensors_without_statistics_are_rounded_plainly() -> None:
    compensation = Compensation(_gram(_inputs(2000, 3), _inputs(100, 4)))
    weights = _weights()
    rounding = Rounding(compensation=compensation)
    assert rounding.of_matrix(TENSOR, 0, CATALOGUE["F16"], weights.__getitem__).factor is None
    other = Tensor("token_embd.weight", (LENGTH, ROWS), CATALOGUE["F16"])
    assert rounding.of_matrix(other, 0, CATALOGUE["Q4_K"], weights.__getitem__).factor is None


def test_the_rows_to_test_on_are_spread_evenly() -> None:
    for rows in (1, 2, 63, 64, 65, 1000):
        places = sampled_rows(rows)
        assert len(places) == min(rows, 64)
        assert len(set(places.tolist())) == len(places)
        assert places.min() >= 0
        assert places.max() < rows


def test_a_factor_inverts_the_damped_matrix() -> None:
    inputs = _inputs(50, 3)  # fewer tokens than columns: singular without damping
    gram = inputs.T @ inputs / np.float32(50)
    factor = upper_factor(gram, damping=0.1).astype(np.float64)
    damped = gram.astype(np.float64) + 0.1 * np.mean(np.diagonal(gram)) * np.eye(LENGTH)
    np.testing.assert_array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(LENGTH), atol=1e-4)
    metric = Metric.of(gram, damping=0.1)
    np.testing.assert_array_equal(metric.factor, upper_factor(gram, damping=0.1))
    np.testing.assert_allclose(metric.matrix, damped, rtol=1e-6)


def test_where_nothing_was_seen_columns_are_apart() -> None:
    metric = Metric.of(np.zeros((3, 3), np.float32))
    np.testing.assert_array_equal(metric.matrix, np.eye(3))
    np.testing.assert_array_equal(metric.factor, np.eye(3))


def test_statistics_that_are_those_of_no_inputs_are_refused_by_the_name_of_their_file() -> None:
    gram = _gram(_inputs(2000, 3), _inputs(100, 4))
    matrix = gram.source.matrix(TENSOR.name, 0)
    impossible = replace(matrix, blocks=(-matrix.blocks[0],))
    broken = replace(gram, source=InMemory({TENSOR.name: [impossible]}), where="m.gram")
    with pytest.raises(InvalidInput, match=r"blk\.0\.ffn_up\.weight: has impossible statistics in m\.gram .*damaged"):
        _of_matrix(broken)
