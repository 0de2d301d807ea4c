"""Collect the Fisher information of a model's weights on text: how much its output changes with each of them.

Theory. For labels y drawn from the model's own output and the gradient G of -Σ_t ln p(y_t) over a window of T tokens,
E[<G, ΔW>²] / (2 T) is the KL divergence per token that a change ΔW of the weights costs, to second order: the Fisher
information is the Hessian of the KL divergence (Amari; Martens, arXiv 1412.1193). The rounding errors of different
weights are nearly uncorrelated, so that

    KL ≈ Σ_ij F_ij ΔW_ij² / (2 T)      with F_ij = E[G_ij²]

and F is stored as its row sums r and column sums c: F_ij ≈ r_i c_j / Σ r. Over a window G = Δᵀ X with the gradients
Δ [tokens, rows] at the outputs and the inputs X [tokens, columns] of the product, so r_i = δ_iᵀ (X Xᵀ) δ_i and
c_j = x_jᵀ (Δ Δᵀ) x_j, without forming G where that is cheaper. For the output head the expectation over labels is
computed exactly.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from autograd import make_vjp
from jaxtyping import Float32, Float64, Int32

from raq_client.curvature.information import Fisher, joined
from raq_client.curvature.layers import Array, Watch
from raq_client.curvature.network import Network, capped, unwatched
from raq_client.curvature.shapes import Shape, shape_of
from raq_client.engine import Engine, scored_positions
from raq_client.models.model_file import ModelFile
from raq_solver.errors import Fault, InvalidInput

KEPT_BYTES: Final = 1 << 30
"""Memory limit for the residual streams that are kept between the blocks."""
WINDOWS_AT_ONCE: Final = 4
"""Windows per reading of a block's weights; also the most work that an interrupted run loses."""
SEED: Final = 1
LARGEST_DIFFERENCE: Final = 1e-3
"""Tolerated mean KL divergence, nats per token, between the logits computed here and libllama's for a model stored as
plain floats. Usual values are 1e-7 to 1e-6; a single wrong layer parameter gives 0.02 to 3
(tests/client/curvature/test_network.py)."""
LARGEST_DIFFERENCE_QUANTIZED: Final = 0.01
"""The same for a model with quantized weights: libllama rounds their inputs to 8 bits."""

Progress = Callable[[int, int], None]


class GradientSums:
    """Collects gradients from the passes of `add_windows`; what a collector has no use for it leaves out."""

    def begin(self, window: int) -> None:
        """The gradients that follow are of this window, by its number."""

    def watch_of(self, name: str, matrix: int, inputs: Array) -> Watch:
        """A watcher of one product."""
        return unwatched(name, matrix, inputs)

    def add_head(
        self,
        name: str,
        inputs: Float32[np.ndarray, "tokens width"],
        shares: Float32[np.ndarray, "tokens vocabulary"],
        slope: Float32[np.ndarray, "tokens vocabulary"] | None,
    ) -> None:
        """Add what is known of the output head, as `FisherSums.add_head`."""

    def add_lookup(
        self, name: str, tokens: Int32[np.ndarray, " tokens"], gradient: Float32[np.ndarray, "tokens width"]
    ) -> None:
        """Add the gradient at the rows of the embedding."""


class FisherSums(GradientSums):
    """Sums of squared gradients of every matrix over windows of `tokens` tokens."""

    def __init__(self, model: ModelFile, tokens: int) -> None:
        self._tokens = tokens
        self._window = 0
        self._levels: dict[int, dict[str, float]] = {}
        self._rows: dict[str, Float64[np.ndarray, "matrices rows"]] = {}
        self._columns: dict[str, Float64[np.ndarray, "matrices columns"]] = {}
        for tensor in model.tensors:
            if len(tensor.shape) > 1:
                shape = tensor.matrices, tensor.rows // tensor.matrices, tensor.row_length
                self._rows[tensor.name], self._columns[tensor.name] = np.zeros(shape[:2]), np.zeros(shape[::2])

    def clear(self) -> None:
        """Begin again with sums of 0."""
        for sums in (*self._rows.values(), *self._columns.values()):
            sums[:] = 0
        self._levels = {}

    def begin(self, window: int) -> None:
        """The gradients that follow are of this window, by its number."""
        self._window = window
        self._levels.setdefault(window, {})

    def watch_of(self, name: str, matrix: int, _inputs: Array) -> Watch:
        """A watcher that adds the squared gradients of one product."""

        def watch(inputs: np.ndarray, gradient: np.ndarray) -> None:
            self._add(name, matrix, *_sums_of_squares(inputs, gradient))

        return watch

    def add_head(
        self,
        name: str,
        inputs: Float32[np.ndarray, "tokens width"],
        shares: Float32[np.ndarray, "tokens vocabulary"],
        slope: Float32[np.ndarray, "tokens vocabulary"] | None,
    ) -> None:
        """Add the output head's squared gradients, as the exact expectation over labels.

        The expectation of the squared gradient at a logit is p (1 - p); `slope` is the derivative of the logits with
        respect to the product's outputs (None: 1).
        """
        spread = shares - shares * shares  # variance of each label indicator
        if slope is not None:
            spread *= slope * slope
        squares = np.square(inputs)
        self._add(name, 0, squares.sum(axis=1) @ spread, spread.sum(axis=1) @ squares)

    def add_lookup(
        self, name: str, tokens: Int32[np.ndarray, " tokens"], gradient: Float32[np.ndarray, "tokens width"]
    ) -> None:
        """Add the embedding's squared gradients from its use as a lookup table."""
        # A token that occurs several times uses the same row: its gradients must be summed before squaring.
        distinct, places = np.unique(tokens, return_inverse=True)
        summed = np.zeros((distinct.size, gradient.shape[1]))
        np.add.at(summed, places, gradient)
        rows = np.zeros(self._rows[name].shape[1])
        rows[distinct] = np.square(summed).sum(axis=1)
        self._add(name, 0, rows, np.square(summed).sum(axis=0))

    def _add(self, name: str, matrix: int, rows: np.ndarray, columns: np.ndarray) -> None:
        # Divided by all tokens of the window, also for an expert that got only some of them: losses are per token.
        if not (math.isfinite(float(rows.sum())) and math.isfinite(float(columns.sum()))):
            raise InvalidInput(Fault(name, "its gradient is not finite: a weight or an activation is NaN or infinite"))
        self._rows[name][matrix] += rows / (2 * self._tokens)
        self._columns[name][matrix] += columns / (2 * self._tokens)
        levels = self._levels[self._window]
        levels[name] = levels.get(name, 0.0) + float(rows.sum()) / (2 * self._tokens)

    def found(self, windows: int = 1) -> dict[str, Fisher]:
        """The means over this number of windows, for every tensor with a gradient."""
        return {
            name: Fisher(
                (rows / windows).astype(np.float32),
                (self._columns[name] / windows).astype(np.float32),
                np.array([levels.get(name, 0.0) for _, levels in sorted(self._levels.items())], np.float32),
            )
            for name, rows in self._rows.items()
            if rows.any()
        }


def _sums_of_squares(
    inputs: Float32[np.ndarray, "tokens columns"], gradient: Float32[np.ndarray, "tokens rows"]
) -> tuple[Float64[np.ndarray, " rows"], Float64[np.ndarray, " columns"]]:
    """Σ G² along each row and each column of G = gradientᵀ inputs."""
    tokens, rows, columns = len(inputs), gradient.shape[1], inputs.shape[1]
    # Forming G costs tokens * rows * columns; the two Gram matrices cost tokens² * (rows + columns), twice each.
    if rows * columns < 2 * tokens * (rows + columns):
        squares = np.square(gradient.T @ inputs)
        return squares.sum(axis=1, dtype=np.float64), squares.sum(axis=0, dtype=np.float64)
    at_rows, at_columns = (inputs @ inputs.T) @ gradient, (gradient @ gradient.T) @ inputs
    return _dots(gradient, at_rows), _dots(inputs, at_columns)


def _dots(a: Float32[np.ndarray, "tokens n"], b: Float32[np.ndarray, "tokens n"]) -> Float64[np.ndarray, " n"]:
    """a_iᵀ b_i of every column, at least 0: rounding could make a sum of squares negative."""
    found: Float64[np.ndarray, " n"] = np.maximum(np.einsum("tn,tn->n", a, b, dtype=np.float64), 0.0)
    return found


def collect_fisher(
    model: ModelFile,
    engine: Engine,
    windows: Int32[np.ndarray, "windows context"],
    *,
    start: tuple[Mapping[str, Fisher], int] = ({}, 0),
    save: Callable[[Mapping[str, Fisher], int], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, Fisher]:
    """The Fisher information of every matrix of `model` on these windows.

    `engine` must have the same model loaded; its logits verify the forward pass computed here. `start` is the result
    of the first windows and their number; `save` is called with the result so far and its number of windows. The sums
    of some windows at a time are rounded and added, so that interrupted work, and work in parts, ends with the same
    bits.

    Raises InvalidInput if the architecture is not supported, the logits differ from libllama's, or a number is not
    finite.
    """
    network, windows = network_for(model, engine, windows, begun=start[1] > 0)
    sums = FisherSums(model, windows.shape[1])
    found, before = dict(start[0]), start[1]
    for done in passes(network, windows, sums, first=before, progress=progress):
        found = joined(found, before, sums.found(done - before), done - before)
        before = done
        sums.clear()
        if save is not None:
            save(found, done)
    return found


def network_for(
    model: ModelFile, engine: Engine, windows: Int32[np.ndarray, "windows context"], *, begun: bool = False
) -> tuple[Network, Int32[np.ndarray, "windows context"]]:
    """The model's network for windows of this length, and the windows with the token that begins a text.

    Unless `begun`, its logits are compared with those of `engine`. Raises InvalidInput if the architecture is not
    supported or they differ.
    """
    windows = engine.begun(windows)
    network = Network(model, shape_of(model), windows.shape[1])
    if not begun:
        require_agreement(network, engine, windows[0])
    return network, windows


def passes(
    network: Network,
    windows: Int32[np.ndarray, "windows context"],
    sums: GradientSums,
    *,
    first: int = 0,
    progress: Progress | None = None,
) -> Iterator[int]:
    """Pass forward and back over the windows from `first` on, some at a time; yields the number of windows done."""
    blocks, total = network.shape.blocks, len(windows)
    for group in _groups(range(first, total), windows_at_once(network.shape, windows.shape[1])):
        done = 0

        def passed(start: int = group.start, size: int = len(group)) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(start + done * size // (2 * blocks * size), total)

        add_windows(network, windows[group.start : group.stop], sums, first=group.start, passed=passed)
        yield group.stop


def windows_at_once(shape: Shape, context: int) -> int:
    """The number of windows of this length that pass together."""
    stream_bytes = 4 * context * shape.width * (shape.blocks + 1)
    return max(1, min(WINDOWS_AT_ONCE, KEPT_BYTES // stream_bytes))


def require_agreement(network: Network, engine: Engine, window: Int32[np.ndarray, " context"]) -> None:
    """Raise InvalidInput if the logits computed here differ from libllama's on one window."""
    ours = _log_shares(network.logits(window, scored_positions(len(window))))
    theirs = _log_shares(next(iter(engine.score_windows(window[None]))))
    difference = float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())
    if not difference <= (LARGEST_DIFFERENCE if network.has_plain_weights else LARGEST_DIFFERENCE_QUANTIZED):
        what = (
            f"its output computed here differs from libllama's by {difference:.3g} nats per token: this model has "
            "a feature that raq does not support, and its Fisher information would be wrong"
        )
        raise InvalidInput(Fault(str(engine.path), what))


def _log_shares(logits: Float32[np.ndarray, "tokens vocabulary"]) -> Float64[np.ndarray, "tokens vocabulary"]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _groups(windows: range, size: int) -> Iterator[range]:
    yield from (windows[first : first + size] for first in range(0, len(windows), size))


def add_windows(
    network: Network,
    windows: Int32[np.ndarray, "windows context"],
    sums: GradientSums,
    *,
    first: int = 0,
    passed: Callable[[], None] = lambda: None,
) -> None:
    """Run the forward and backward pass on these windows, numbered from `first`; the number seeds the drawn labels.

    `passed` is called for each block and window, in the forward and in the backward pass.
    """
    blocks = network.shape.blocks
    # Only the stream before each block is kept. The backward pass computes each block again from it, so that one
    # block's activations are in memory at a time.
    streams: list[list[Float32[np.ndarray, "tokens width"]]] = [[network.embed(window)] for window in windows]
    for block in range(blocks):
        weights = network.block_weights(block)
        for stream in streams:
            stream.append(network.block(stream[-1], weights, unwatched))
            passed()
    gradients = _head_gradients(network, [stream.pop() for stream in streams], sums, first)
    for block in reversed(range(blocks)):
        weights = network.block_weights(block)
        for window, stream in enumerate(streams):
            sums.begin(first + window)
            back, _ = make_vjp(lambda x, w=weights: network.block(x, w, sums.watch_of))(stream.pop())
            gradients[window] = back(gradients[window])
            passed()
    for number, (window, gradient) in enumerate(zip(windows, gradients, strict=True), start=first):
        sums.begin(number)
        sums.add_lookup("token_embd.weight", window, gradient * np.float32(network.shape.embedding_scale))


def _head_gradients(
    network: Network, streams: Sequence[Float32[np.ndarray, "tokens width"]], sums: GradientSums, first: int
) -> list[Float32[np.ndarray, "tokens width"]]:
    """The loss gradient of each window at the end of the residual stream, for labels drawn from the model's output."""
    matrix, gain = network.head_weights()
    found = []
    for number, stream in enumerate(streams, start=first):
        back, inputs = make_vjp(lambda x: network.final(x, gain))(stream)
        logits_back, logits = make_vjp(lambda z: capped(z, network.shape))(inputs @ matrix.T)
        gradient, shares = _label_gradient(logits, number)
        # Scaling and capping act on each logit alone, so their derivatives are the product of their Jacobian with ones.
        slope = None if network.shape.has_plain_logits else logits_back(np.ones_like(shares))
        sums.begin(number)
        sums.add_head(network.head, inputs, shares, slope)
        found.append(back(logits_back(gradient) @ matrix))
    return found


def _label_gradient(
    logits: Float32[np.ndarray, "tokens vocabulary"], number: int
) -> tuple[Float32[np.ndarray, "tokens vocabulary"], Float32[np.ndarray, "tokens vocabulary"]]:
    """The gradient of -ln p(label) at the logits, for one label drawn per token, and the probabilities p."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    gradient = shares.copy()
    for row, aim in zip(gradient, np.random.default_rng((SEED, number)).random(len(shares)), strict=True):
        # Inverse transform sampling; the gradient of -ln p(label) is p minus the indicator of the label.
        cumulative = np.cumsum(row, dtype=np.float64)
        row[min(int(np.searchsorted(cumulative, aim * cumulative[-1])), row.size - 1)] -= 1
    return gradient, shares
