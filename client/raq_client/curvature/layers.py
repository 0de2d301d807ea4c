"""The layers of language models in NumPy for autograd; the backward pass can watch the products of weight matrices.

Arrays are float32. `tokens` is the length of one window; there is no batch axis and no cache.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, defvjp_argnums
from autograd.extend import primitive as untyped_primitive
from jaxtyping import Float32

Array = Any
"""A NumPy array, or autograd's box around one."""
Watch = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Called with the inputs [tokens, columns] of a product and the gradients at its outputs and at its inputs."""
LARGE_NEGATIVE: Final = -1e30
Function = TypeVar("Function", bound=Callable[..., Any])


def primitive(function: Function) -> Function:
    """A function with a hand-written gradient; a typed wrapper of autograd's own decorator."""
    recorded: Function = untyped_primitive(function)
    return recorded


@primitive
def product(inputs: Array, weights: Float32[np.ndarray, "rows columns"], watch: Watch) -> Array:
    """`inputs` [tokens, columns] times the transposed weights; the backward pass calls `watch`."""
    del watch
    return inputs @ weights.T


def _product_vjp(_: Array, inputs: Array, weights: Array, watch: Watch) -> Callable[[Array], Array]:
    # The weights' own gradient is never formed here: `watch` needs only sums of its squares.
    def back(gradient: Array) -> Array:
        at_inputs = gradient @ weights
        watch(inputs, gradient, at_inputs)
        return at_inputs

    return back


defvjp(product, _product_vjp, argnums=(0,))


def rms_norm(x: Array, gain: Array, epsilon: float) -> Array:
    """Values divided by their root mean square along the last axis, times `gain`."""
    return x / anp.sqrt(anp.mean(x * x, axis=-1, keepdims=True) + epsilon) * gain


def silu(x: Array) -> Array:
    """Values times their sigmoid."""
    return x * sigmoid(x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    return 0.5 * (anp.tanh(0.5 * x) + 1.0)


def gelu(x: Array) -> Array:
    """GELU in the tanh approximation that ggml computes."""
    return 0.5 * x * (1.0 + anp.tanh(0.7978845608028654 * x * (1.0 + 0.044715 * x * x)))


def soft_cap(x: Array, cap: float) -> Array:
    """Values limited smoothly to ±cap; unchanged if `cap` is 0."""
    return x if not cap else cap * anp.tanh(x / cap)


def softmax(x: Array) -> Array:
    """Softmax along the last axis."""
    e = anp.exp(x - anp.max(x, axis=-1, keepdims=True))
    return e / anp.sum(e, axis=-1, keepdims=True)


def rope_angles(
    tokens: int, dimensions: int, base: float, factors: np.ndarray | None, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [tokens, dimensions / 2] of rotary embedding; positions count from 0.

    `factors` divide the frequencies (rope_freqs.weight), `scale` is what positions are multiplied by.
    """
    frequencies = base ** (-np.arange(0, dimensions, 2, dtype=np.float64) / dimensions)
    if factors is not None:
        frequencies = frequencies / factors[: frequencies.size]
    angles = scale * np.outer(np.arange(tokens), frequencies)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


Angles = tuple[Float32[np.ndarray, "tokens pairs"], Float32[np.ndarray, "tokens pairs"]]


@primitive
def rotate(x: Array, angles: Angles, interleaved: bool) -> Array:  # noqa: FBT001 - autograd passes by position
    """Rotary embedding of x [tokens, heads, head size].

    `interleaved` pairs neighbouring values, else values half the rotated size apart.
    """
    cos, sin = (each[:, None, :] for each in angles)
    rotated = 2 * cos.shape[-1]
    first, second = (
        (slice(0, rotated, 2), slice(1, rotated, 2))
        if interleaved
        else (slice(0, rotated // 2), slice(rotated // 2, rotated))
    )
    turned = x.copy()
    a, b = x[..., first], x[..., second]
    turned[..., first] = a * cos - b * sin
    turned[..., second] = a * sin + b * cos
    return turned


def _rotate_vjp(_: Array, _x: Array, angles: Angles, interleaved: bool) -> Callable[[Array], Array]:  # noqa: FBT001
    return lambda gradient: rotate(gradient, (angles[0], -angles[1]), interleaved)  # a rotation's transpose


defvjp(rotate, _rotate_vjp, argnums=(0,))


def causal_mask(tokens: int, window: int) -> np.ndarray:
    """0 where a token (row) may attend, a large negative number elsewhere; `window` 0 means no limit."""
    distance = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
    seen = (distance >= 0) & ((distance < window) if window else True)
    return np.where(seen, np.float32(0), np.float32(LARGE_NEGATIVE))


@primitive
def attention(q: Array, k: Array, v: Array, mask: np.ndarray, scale: float, cap: float) -> Array:
    """Causal attention with grouped heads: q [tokens, heads, size], k and v [tokens, groups, size].

    Returns [tokens, heads × size of v].
    """
    return _attended(_attention_shares(q, k, mask, scale, cap)[0], v)


def _grouped(x: np.ndarray, groups: int) -> np.ndarray:
    """Reshape [tokens, heads, size] to [groups, heads of the group × tokens, size]."""
    return np.ascontiguousarray(x.transpose(1, 0, 2)).reshape(groups, -1, x.shape[2])


def _ungrouped(x: np.ndarray, tokens: int) -> np.ndarray:
    """The inverse of `_grouped`."""
    return x.reshape(-1, tokens, x.shape[2]).transpose(1, 0, 2)


def _attention_shares(
    q: np.ndarray, k: np.ndarray, mask: np.ndarray, scale: float, cap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Attention probabilities [groups, heads × tokens, tokens], and the derivative of the cap at the scores."""
    tokens, groups = k.shape[:2]
    scores = np.matmul(_grouped(q, groups), k.transpose(1, 2, 0))
    scores *= np.float32(scale)
    slope = np.ones((), np.float32)
    if cap:
        bent = np.tanh(scores / cap)
        scores, slope = cap * bent, 1 - bent * bent
    # In place: this is by far the largest array of a layer.
    shares = scores.reshape(-1, tokens, tokens)
    shares += mask
    shares -= shares.max(axis=-1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares.reshape(groups, -1, tokens), slope


def _attended(shares: np.ndarray, v: np.ndarray) -> np.ndarray:
    tokens = v.shape[0]
    mixed = _ungrouped(np.matmul(shares, v.transpose(1, 0, 2)), tokens)
    return np.ascontiguousarray(mixed).reshape(tokens, -1)


def _attention_vjps(
    argnums: tuple[int, ...], _: Array, arguments: tuple[Any, ...], _named: dict[str, Any]
) -> Callable[[Array], list[Array]]:
    q, k, v, mask, scale, cap = arguments
    groups, tokens = k.shape[1], k.shape[0]

    def back(gradient: Array) -> list[Array]:
        # Computed again rather than kept: it grows with the square of the tokens.
        shares, slope = _attention_shares(q, k, mask, scale, cap)
        mixed = _grouped(gradient.reshape(tokens, q.shape[1], -1), groups)
        at_v = np.matmul(shares.transpose(0, 2, 1), mixed).transpose(1, 0, 2)
        at_shares = np.matmul(mixed, v.transpose(1, 2, 0))
        # Softmax backward: (g - Σ g p) p, then through cap and scale to the scores.
        at_shares -= np.einsum("gst,gst->gs", at_shares, shares)[..., None]
        at_scores = at_shares * shares * slope * np.float32(scale)
        at_q = _ungrouped(np.matmul(at_scores, k.transpose(1, 0, 2)), tokens)
        at_k = np.matmul(at_scores.transpose(0, 2, 1), _grouped(q, groups)).transpose(1, 0, 2)
        return [(at_q, at_k, at_v)[argument] for argument in argnums]

    return back


defvjp_argnums(attention, _attention_vjps)


KEPT_EVERY: Final = 32
"""Every 32nd state of the recurrence is kept; those between are computed again in the backward pass."""


@primitive
def gated_delta(q: Array, k: Array, v: Array, decay: Array, rate: Array) -> Array:
    """The gated delta rule (Yang et al., arXiv 2412.06464), token by token from a state of zeros.

    q and k [tokens, heads, size], v [tokens, heads, size of v], decay (logarithm of the kept share) and rate
    [tokens, heads]. Returns [tokens, heads, size of v].

        S' = e^decay S        u = rate (v - S'ᵀ k)        S = S' + k uᵀ        out = Sᵀ q
    """
    state = np.zeros((q.shape[1], q.shape[2], v.shape[2]), np.float32)
    found = np.empty_like(v)
    for t in range(len(q)):
        state = _delta_step(state, k[t], v[t], decay[t], rate[t])[0]
        found[t] = _read(state, q[t])
    return found


def _read(state: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Sᵀ x of each head."""
    mixed: np.ndarray = np.matmul(by[:, None, :], state)[:, 0]
    return mixed


def _delta_step(
    state: np.ndarray, k: np.ndarray, v: np.ndarray, decay: np.ndarray, rate: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The state after a token, the state after only its decay, and v - S'ᵀ k."""
    kept = state * np.exp(decay)[:, None, None]
    missing = v - _read(kept, k)
    return kept + k[:, :, None] * (rate[:, None] * missing)[:, None, :], kept, missing


def _gated_delta_vjps(
    argnums: tuple[int, ...], _: Array, arguments: tuple[Any, ...], _named: dict[str, Any]
) -> Callable[[Array], list[Array]]:
    q, k, v, decay, rate = arguments
    state = np.zeros((q.shape[1], q.shape[2], v.shape[2]), np.float32)
    kept = []
    for t in range(len(q)):
        if t % KEPT_EVERY == 0:
            kept.append(state)
        state = _delta_step(state, k[t], v[t], decay[t], rate[t])[0]

    def back(gradient: Array) -> list[Array]:
        at = [np.zeros_like(each) for each in arguments]
        at_state = np.zeros_like(state)
        for part in reversed(range(len(kept))):
            at_state = _delta_part_back(arguments, gradient, kept[part], part * KEPT_EVERY, at, at_state)
        return [at[argument] for argument in argnums]

    return back


def _delta_part_back(
    arguments: tuple[Any, ...],
    gradient: np.ndarray,
    state: np.ndarray,
    first: int,
    at: list[np.ndarray],
    at_state: np.ndarray,
) -> np.ndarray:
    """Backward pass through the tokens from `first` to the next kept state; adds to the gradients `at`.

    `at_state` is the gradient at the state after these tokens; returns the one at the state before them.
    """
    q, k, v, decay, rate = arguments
    tokens = range(first, min(len(q), first + KEPT_EVERY))
    steps = []
    # Forward again from the kept state, because each step's gradient needs the state before and after it.
    for t in tokens:
        before = state
        state, faded, missing = _delta_step(before, k[t], v[t], decay[t], rate[t])
        steps.append((before, faded, missing, state))
    for t, (before, faded, missing, after) in zip(reversed(tokens), reversed(steps), strict=True):
        # out = Sᵀ q
        at[0][t] = np.matmul(after, gradient[t][:, :, None])[:, :, 0]
        at_state = at_state + q[t][:, :, None] * gradient[t][:, None, :]
        # S = S' + k uᵀ with u = rate · missing and missing = v - S'ᵀ k
        at_change = _read(at_state, k[t])
        at[4][t] = (at_change * missing).sum(axis=1)
        at_missing = rate[t][:, None] * at_change
        at[2][t] = at_missing
        at[1][t] = (
            np.matmul(at_state, (rate[t][:, None] * missing)[:, :, None]) - np.matmul(faded, at_missing[:, :, None])
        )[:, :, 0]
        at_faded = at_state - k[t][:, :, None] * at_missing[:, None, :]
        # S' = e^decay S
        keep = np.exp(decay[t])
        at[3][t] = keep * (at_faded * before).sum(axis=(1, 2))
        at_state = at_faded * keep[:, None, None]
    return at_state


defvjp_argnums(gated_delta, _gated_delta_vjps)


def short_convolution(x: Array, kernel: np.ndarray) -> Array:
    """Each channel of x [tokens, channels] convolved with its own causal kernel [channels, length]."""
    length = kernel.shape[1]
    before = anp.concatenate([np.zeros((length - 1, x.shape[1]), np.float32), x])
    return sum(before[i : i + x.shape[0]] * kernel[:, i] for i in range(length))


def unit(x: Array, epsilon: float) -> Array:
    """Values divided by their Euclidean norm along the last axis."""
    return x / anp.sqrt(anp.sum(x * x, axis=-1, keepdims=True) + epsilon)
