"""Ways back that are written by hand are those that differences give, in float64; ways there have plain witnesses."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from autograd.numpy import random as autograd_random
from autograd.test_util import check_grads

from raq_client.curvature.layers import (
    KEPT_EVERY,
    Array,
    attention,
    causal_mask,
    gated_delta,
    product,
    rms_norm,
    rope_angles,
    rotate,
    short_convolution,
    sigmoid,
    silu,
    unit,
)

TOKENS, HEADS, GROUPS, SIZE = 7, 4, 2, 6


@pytest.fixture(autouse=True)
def _same_numbers() -> Iterator[None]:
    """check_grads draws directions from NumPy's global numbers, and so do these tests."""
    state = autograd_random.get_state()
    autograd_random.seed(7)
    yield
    autograd_random.set_state(state)


def _normal(*shape: int) -> np.ndarray:
    drawn: np.ndarray = autograd_random.normal(size=shape)
    return drawn


def _check(function: Callable[..., Array], *arguments: np.ndarray) -> None:
    """The gradient at each argument, and at all of them together."""
    for argument in range(len(arguments)):
        check_grads(function, argument, modes=["rev"], order=1)(*arguments)
    check_grads(function, tuple(range(len(arguments))), modes=["rev"], order=1)(*arguments)


def test_a_product_is_watched_on_the_way_back() -> None:
    weights, seen = _normal(3, 5), []

    def watched(x: Array) -> Array:
        return product(x, weights, lambda *found: seen.append(found))

    inputs = _normal(TOKENS, 5)
    np.testing.assert_allclose(watched(inputs), inputs @ weights.T)
    assert not seen
    _check(watched, inputs)
    assert seen
    for found, gradient, at_inputs in seen:
        assert gradient.shape == (TOKENS, 3)
        np.testing.assert_array_equal(found, inputs)
        np.testing.assert_allclose(at_inputs, gradient @ weights)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotated", [SIZE, 4])
def test_rotation(interleaved: bool, rotated: int) -> None:  # noqa: FBT001
    angles = np.linspace(0, 3, TOKENS * rotated // 2).reshape(TOKENS, rotated // 2)
    x = _normal(TOKENS, HEADS, SIZE)
    turned = rotate(x, (np.cos(angles), np.sin(angles)), interleaved)
    for pair in range(rotated // 2):
        places = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + rotated // 2)
        before, after = (each[..., places[0]] + 1j * each[..., places[1]] for each in (x, turned))
        np.testing.assert_allclose(after, before * np.exp(1j * angles[:, pair])[:, None])
    np.testing.assert_array_equal(turned[..., rotated:], x[..., rotated:])
    _check(lambda y: rotate(y, (np.cos(angles), np.sin(angles)), interleaved), x)


def test_angles_are_positions_times_frequencies() -> None:
    cos, sin = rope_angles(TOKENS, SIZE, 100.0, np.array([1.0, 2.0, 4.0]), 0.5)
    angles = 0.5 * np.arange(TOKENS)[:, None] * 100.0 ** (-np.arange(3) / 3) / [1, 2, 4]
    np.testing.assert_allclose(cos, np.cos(angles), rtol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angles), rtol=1e-6)
    assert cos.dtype == sin.dtype == np.float32


def _attention_by_loops(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int, scale: float, cap: float
) -> np.ndarray:
    out = np.zeros((TOKENS, HEADS, v.shape[2]))
    for head in range(HEADS):
        group = head * GROUPS // HEADS
        for t in range(TOKENS):
            seen = range(max(0, t - window + 1) if window else 0, t + 1)
            scores = np.array([scale * (q[t, head] @ k[s, group]) for s in seen])
            shares = np.exp(cap * np.tanh(scores / cap) if cap else scores)
            out[t, head] = shares @ v[list(seen), group] / shares.sum()
    return out.reshape(TOKENS, -1)


@pytest.mark.parametrize("cap", [0.0, 1.5])
@pytest.mark.parametrize("window", [0, 3])
def test_attention(cap: float, window: int) -> None:
    mask = causal_mask(TOKENS, window)
    q, k, v = _normal(TOKENS, HEADS, SIZE), _normal(TOKENS, GROUPS, SIZE), _normal(TOKENS, GROUPS, SIZE + 1)
    expected = _attention_by_loops(q, k, v, window, 0.5, cap)
    np.testing.assert_allclose(attention(q, k, v, mask, 0.5, cap), expected, rtol=1e-10)
    _check(lambda *each: attention(*each, mask, 0.5, cap), q, k, v)


def _gated_delta_by_loops(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, decay: np.ndarray, rate: np.ndarray
) -> np.ndarray:
    out = np.zeros_like(v)
    for head in range(q.shape[1]):
        state = np.zeros((q.shape[2], v.shape[2]))
        for t in range(len(q)):
            state *= np.exp(decay[t, head])
            state += np.outer(k[t, head], rate[t, head] * (v[t, head] - k[t, head] @ state))
            out[t, head] = q[t, head] @ state
    return out


@pytest.mark.parametrize("tokens", [5, KEPT_EVERY, 2 * KEPT_EVERY + 3])
def test_gated_delta_rule(tokens: int) -> None:
    q, v = _normal(tokens, 2, 4), _normal(tokens, 2, 5)
    k = unit(_normal(tokens, 2, 4), 1e-6)
    decay, rate = -np.abs(_normal(tokens, 2)), sigmoid(_normal(tokens, 2))
    np.testing.assert_allclose(
        gated_delta(q, k, v, decay, rate), _gated_delta_by_loops(q, k, v, decay, rate), rtol=1e-9
    )
    _check(gated_delta, q, k, v, decay, rate)


def test_convolution_looks_back_only() -> None:
    x, kernel = _normal(TOKENS, 3), _normal(3, 4)
    expected = [np.convolve(x[:, channel], kernel[channel][::-1])[:TOKENS] for channel in range(3)]
    np.testing.assert_allclose(short_convolution(x, kernel), np.transpose(expected), rtol=1e-10)
    _check(lambda y: short_convolution(y, kernel), x)


def test_norms_and_activations() -> None:
    x, gain = _normal(TOKENS, SIZE), _normal(SIZE)
    normed = rms_norm(x, np.ones(SIZE), 0.0)
    np.testing.assert_allclose(np.square(normed).mean(axis=1), np.ones(TOKENS))
    np.testing.assert_allclose(np.linalg.norm(unit(x, 0.0), axis=1), np.ones(TOKENS))
    for far in (-1e4, 0.0, 1e4):  # nothing overflows: warnings are errors
        assert sigmoid(far) == pytest.approx({-1e4: 0.0, 0.0: 0.5, 1e4: 1.0}[far])
        assert silu(far) == pytest.approx(max(far, 0.0))
    _check(lambda y, g: rms_norm(y, g, 1e-3), x, gain)
