import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.compensation.drift import CORRECTION_DAMPING, DriftSums
from raq_client.compensation.gram import Columns, column_blocks

WIDTH, ROWS = 24, 10


def _pairs(count: int, seed: int, *, drift: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of unit length, and the same changed by one matrix and by noise."""
    random = np.random.default_rng(seed)
    turned = np.eye(WIDTH) + drift * np.random.default_rng(99).standard_normal((WIDTH, WIDTH)) / WIDTH**0.5
    inputs = random.standard_normal((count, WIDTH)) * np.linspace(0.3, 2, WIDTH)
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    drifted = inputs @ turned.T + noise * random.standard_normal((count, WIDTH)) / WIDTH**0.5
    return inputs.astype(np.float32), drifted.astype(np.float32)


def _weights(seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((ROWS, WIDTH)).astype(np.float32)


def _sums(counted: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray]) -> DriftSums:
    sums = DriftSums.empty(column_blocks(WIDTH))
    sums.add(*counted)
    sums.hold_out(*held_out)
    return sums


@given(seed=st.integers(0, 1000), drift=st.floats(0, 0.5), noise=st.floats(0, 0.5))
def test_corrected_weights_are_the_damped_least_squares(seed: int, drift: float, noise: float) -> None:
    inputs, drifted = _pairs(80, seed, drift=drift, noise=noise)
    weights = _weights(seed)
    found = _sums((inputs, drifted), (inputs, drifted)).found().corrected(weights)
    # Independently: rows that ask for no change of weights, as strongly as the damping does.
    damping = CORRECTION_DAMPING * np.square(drifted).sum() / WIDTH
    asked = np.concatenate([drifted, np.sqrt(damping) * np.eye(WIDTH)])
    wanted = np.concatenate([(inputs - drifted) @ weights.T, np.zeros((WIDTH, ROWS))])
    change = np.linalg.lstsq(asked, wanted, rcond=None)[0].T
    assert found == pytest.approx(weights + change, abs=2e-4)


def test_outputs_are_nearer_on_pairs_that_were_not_counted() -> None:
    counted, others = _pairs(400, 1, drift=0.2, noise=0.05), _pairs(100, 2, drift=0.2, noise=0.05)
    drift = _sums(counted, others).found()
    weights = _weights()
    assert drift.share(weights) > 0.9
    before, after = (
        np.linalg.norm(others[0] @ weights.T - others[1] @ each.T) for each in (weights, drift.corrected(weights))
    )
    assert after < 0.6 * before


def test_a_correction_that_other_pairs_refute_is_refused() -> None:
    counted, others = _pairs(400, 1, drift=0.2, noise=0.0), _pairs(100, 2, drift=-0.2, noise=0.0)
    assert _sums(counted, others).found().share(_weights()) == 0


def test_without_held_out_pairs_nothing_is_corrected() -> None:
    sums = DriftSums.empty(column_blocks(WIDTH))
    sums.add(*_pairs(100, 1, drift=0.2, noise=0.0))
    assert sums.found().share(_weights()) == 0


def test_without_drift_weights_stay() -> None:
    inputs, _ = _pairs(100, 1, drift=0.0, noise=0.0)
    found = _sums((inputs, inputs), (inputs, inputs)).found()
    assert np.array_equal(found.corrected(_weights()), _weights())
    assert found.share(_weights()) == 0


def test_blocks_of_columns_are_corrected_by_themselves() -> None:
    inputs, drifted = _pairs(200, 3, drift=0.2, noise=0.02)
    halves = (Columns(0, 10), Columns(10, WIDTH))
    together = DriftSums.empty(halves)
    together.add(inputs, drifted)
    found = together.found().corrected(_weights())
    for half in halves:
        part = slice(half.first, half.last)
        alone = DriftSums.empty([Columns(0, half.last - half.first)])
        alone.add(inputs[:, part], drifted[:, part])
        expected = alone.found().corrected(np.ascontiguousarray(_weights()[:, part]))
        assert found[:, part] == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 1000))
def test_no_other_share_is_better_on_the_held_out_pairs(seed: int) -> None:
    counted, others = _pairs(60, seed, drift=0.2, noise=0.3), _pairs(50, seed + 1, drift=0.2, noise=0.3)
    drift, weights = _sums(counted, others).found(), _weights(seed)

    def left(share: float) -> float:
        return float(np.square(others[0] @ weights.T - others[1] @ drift.corrected(weights, share).T).sum())

    found = drift.share(weights)
    assert left(found) <= min(left(each) for each in np.linspace(0, 1, 11)) * (1 + 1e-5)
