"""The factor of a Gram matrix: what it must be, and the same bits everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import raq_native
from support.feedback.factors import upper_factor


def _gram(columns: int, tokens: int, seed: int = 0) -> np.ndarray:
    """Of unit inputs whose columns vary together."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((tokens, columns)) @ (np.eye(columns) + 0.3 * random.standard_normal((columns, 1)))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    return (inputs.T @ inputs / tokens).astype(np.float32)


@given(st.integers(1, 140), st.integers(1, 300), st.floats(0.001, 1.0))
def test_it_is_the_factor_of_lapack(columns: int, tokens: int, damping: float) -> None:
    """With fewer tokens than columns the matrix is singular, and only its damping lets it be factored."""
    gram = _gram(columns, tokens)
    factor = raq_native.feedback_factor(gram, damping)
    expected = upper_factor(gram, damping)
    np.testing.assert_allclose(factor, expected, rtol=1e-5, atol=1e-6 * abs(expected).max())
    np.testing.assert_array_equal(factor, np.triu(factor))


@pytest.mark.parametrize("columns", [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 400])
def test_it_inverts_the_damped_matrix(columns: int) -> None:
    gram = _gram(columns, 2 * columns)
    factor = raq_native.feedback_factor(gram, 0.1).astype(np.float64)
    damped = gram + 0.1 * np.mean(np.diagonal(gram)) * np.eye(columns)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(columns), atol=1e-5)


@pytest.mark.parametrize("columns", [1, 2, 17, 63, 64, 65, 129, 300])
def test_neither_threads_nor_the_instruction_set_change_a_bit(columns: int) -> None:
    gram = _gram(columns, 3 * columns)
    expected = raq_native.feedback_factor(gram, 0.05, threads=1, instruction_set="baseline").tobytes()
    for instruction_set in raq_native.instruction_sets():
        for threads in (1, 2, 4):
            found = raq_native.feedback_factor(gram, 0.05, threads=threads, instruction_set=instruction_set)
            assert found.tobytes() == expected


def test_only_the_upper_triangle_is_read() -> None:
    gram = _gram(50, 100)
    changed = np.triu(gram) + np.tril(np.full_like(gram, np.nan), -1)
    np.testing.assert_array_equal(raq_native.feedback_factor(changed, 0.1), raq_native.feedback_factor(gram, 0.1))


def test_columns_without_inputs_stand_alone() -> None:
    gram = _gram(20, 100)
    gram[7], gram[:, 7] = 0, 0
    factor = raq_native.feedback_factor(gram, 0.1)
    others = np.arange(20) != 7
    assert not factor[7, others].any()
    assert not factor[others, 7].any()
    np.testing.assert_array_equal(raq_native.feedback_factor(np.zeros((5, 5), np.float32), 0.1), np.eye(5))


def test_no_columns_have_no_factor() -> None:
    assert raq_native.feedback_factor(np.zeros((0, 0), np.float32), 0.1).shape == (0, 0)


@pytest.mark.parametrize(
    ("gram", "damping", "message"),
    [
        (np.ones((2, 3), np.float32), 0.1, "not square"),
        (np.array([[1, np.nan], [np.nan, 1]], np.float32), 0.1, r"gram \[0, 1\] is NaN"),
        (np.array([[np.inf]], np.float32), 0.1, r"gram \[0, 0\] is NaN or infinite"),
        (np.array([[1, 2], [2, 1]], np.float32), 0.1, "not positive definite"),
        (np.ones((2, 2), np.float32), 0.0, "not positive definite"),
        (np.array([[-1]], np.float32), 0.1, "not positive definite"),
        (np.diag([2, -1]).astype(np.float32), 0.1, "not positive definite"),
        (np.eye(3, dtype=np.float32), 1e300, "row 0 of the factor is beyond the range of float32"),
        (np.eye(2, dtype=np.float32), -0.1, "damping is -0.1"),
        (np.eye(2, dtype=np.float32), float("inf"), "damping is inf"),
        (np.eye(2, dtype=np.float32), float("nan"), "damping is"),
    ],
)
def test_what_has_no_factor_is_refused(gram: np.ndarray, damping: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raq_native.feedback_factor(gram, damping)
