"""The Fisher information of a model's weights on text: how much its output moves with each of them.

Theory. For labels y drawn from the model's own output and the gradient G of -Σ_t ln p(y_t) over a window of T tokens,
E[<G, ΔW>²] / (2 T) is the KL divergence per token that a change ΔW of the weights costs, to second order: the Fisher
information is the Hessian of the KL divergence (Amari; Martens, arXiv 1412.1193). The errors of rounding one weight and
another have hardly anything to do with each other, so that

    KL ≈ Σ_ij F_ij ΔW_ij² / (2 T)      with F_ij = E[G_ij²]

and F is kept as what its rows and its columns add up to: F_ij ≈ r_i c_j / Σ r. Over a window G = Δᵀ X with the
gradients Δ [tokens, rows] at the outputs and the inputs X [tokens, columns] of the product, so r_i = δ_iᵀ (X Xᵀ) δ_i
and c_j = x_jᵀ (Δ Δᵀ) x_j, without G where that is cheaper. Of the output head the expectation over labels is taken
exactly.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from autograd import make_vjp
from jaxtyping import Float32, Float64, Int32

from raq_client.curvature.information import Fisher
from raq_client.curvature.layers import Watch
from raq_client.curvature.network import Network, capped, unwatched
from raq_client.curvature.shapes import shape_of
from raq_client.engine import Engine, scored_positions
from raq_client.models.model_file import ModelFile
from raq_solver.errors import Fault, InvalidInput

KEPT_BYTES: Final = 1 << 30
"""Most memory for the streams that are kept between the blocks."""
WINDOWS_AT_ONCE: Final = 4
"""Windows for which a block's weights are read once; what an interrupted run loses at most."""
SEED: Final = 1
LARGEST_DIFFERENCE: Final = 1e-3
"""Mean KL divergence, nats per token, by which the computation here may differ from libllama's on a model of plain
floats. It is 1e-6 to 1e-7; one fact of a layer taken wrongly gives 0.02 to 3
(tests/client/curvature/test_network.py)."""
LARGEST_DIFFERENCE_QUANTIZED: Final = 0.01
"""The same on a model whose weights come in blocks: libllama rounds their inputs to 8 bits."""

Progress = Callable[[int, int], None]


class FisherSums:
    """Squared gradients of every matrix, added up over windows of so many tokens; `windows` of them are in `start`."""

    def __init__(self, model: ModelFile, tokens: int, start: Mapping[str, Fisher], windows: int) -> None:
        self._tokens, self.windows = tokens, windows
        self._rows: dict[str, Float64[np.ndarray, "matrices rows"]] = {}
        self._columns: dict[str, Float64[np.ndarray, "matrices columns"]] = {}
        for tensor in model.tensors:
            if len(tensor.shape) > 1:
                known = start.get(tensor.name)
                shape = tensor.matrices, tensor.rows // tensor.matrices, tensor.row_length
                self._rows[tensor.name] = np.zeros(shape[:2]) if known is None else known.rows * float(windows)
                self._columns[tensor.name] = np.zeros(shape[::2]) if known is None else known.columns * float(windows)

    def watch_of(self, name: str, matrix: int) -> Watch:
        """A watcher that adds one product's share."""

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
        """The output head's share, in expectation over labels.

        It is p (1 - p) of each token, times the squared `slope` of what is done to the product's outputs.
        """
        spread = shares - shares * shares
        if slope is not None:
            spread *= slope * slope
        squares = np.square(inputs)
        self._add(name, 0, squares.sum(axis=1) @ spread, spread.sum(axis=1) @ squares)

    def add_lookup(
        self, name: str, tokens: Int32[np.ndarray, " tokens"], gradient: Float32[np.ndarray, "tokens width"]
    ) -> None:
        """The embedding's share as it is looked up in."""
        distinct, places = np.unique(tokens, return_inverse=True)
        summed = np.zeros((distinct.size, gradient.shape[1]))
        np.add.at(summed, places, gradient)
        rows = np.zeros(self._rows[name].shape[1])
        rows[distinct] = np.square(summed).sum(axis=1)
        self._add(name, 0, rows, np.square(summed).sum(axis=0))

    def _add(self, name: str, matrix: int, rows: np.ndarray, columns: np.ndarray) -> None:
        # The tokens are those of the window, however few of them an expert got.
        if not (math.isfinite(float(rows.sum())) and math.isfinite(float(columns.sum()))):
            raise InvalidInput(Fault(name, "its gradient is not finite: a weight or an activation is NaN or infinite"))
        self._rows[name][matrix] += rows / (2 * self._tokens)
        self._columns[name][matrix] += columns / (2 * self._tokens)

    def found(self) -> dict[str, Fisher]:
        """The means over windows, of every tensor that a gradient reached."""
        windows = max(1, self.windows)
        return {
            name: Fisher((rows / windows).astype(np.float32), (self._columns[name] / windows).astype(np.float32))
            for name, rows in self._rows.items()
            if rows.any()
        }


def _sums_of_squares(
    inputs: Float32[np.ndarray, "tokens columns"], gradient: Float32[np.ndarray, "tokens rows"]
) -> tuple[Float64[np.ndarray, " rows"], Float64[np.ndarray, " columns"]]:
    """Σ G² along each row and each column of G = gradientᵀ inputs, made or not as is cheaper."""
    tokens, rows, columns = len(inputs), gradient.shape[1], inputs.shape[1]
    if rows * columns < 2 * tokens * (rows + columns):
        squares = np.square(gradient.T @ inputs)
        return squares.sum(axis=1, dtype=np.float64), squares.sum(axis=0, dtype=np.float64)
    at_rows, at_columns = (inputs @ inputs.T) @ gradient, (gradient @ gradient.T) @ inputs
    return _dots(gradient, at_rows), _dots(inputs, at_columns)


def _dots(a: Float32[np.ndarray, "tokens n"], b: Float32[np.ndarray, "tokens n"]) -> Float64[np.ndarray, " n"]:
    """a_iᵀ b_i of every column; never below 0, which rounding could make of a sum of squares."""
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

    `engine` has the same model loaded: its logits say whether the computation here is right. `start` holds what the
    first so many windows gave; `save` is given what was found so far, with the number of windows.

    Raises InvalidInput if the architecture is not known, the logits differ from libllama's, or a number is not finite.
    """
    windows = windows.copy()
    if engine.begin_token is not None:
        windows[:, 0] = engine.begin_token
    network = Network(model, shape_of(model), windows.shape[1])
    if start[1] == 0:
        require_agreement(network, engine, windows[0])
    sums = FisherSums(model, windows.shape[1], *start)
    blocks, total = network.shape.blocks, len(windows)
    stream_bytes = 4 * windows.shape[1] * network.shape.width * (blocks + 1)
    for group in _groups(range(sums.windows, total), max(1, min(WINDOWS_AT_ONCE, KEPT_BYTES // stream_bytes))):
        done = 0

        def passed(first: int = group.start, size: int = len(group)) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(first + done * size // (2 * blocks * size), total)

        add_windows(network, windows[group.start : group.stop], sums, first=group.start, passed=passed)
        sums.windows = group.stop
        if save is not None:
            save(sums.found(), sums.windows)
    return sums.found()


def require_agreement(network: Network, engine: Engine, window: Int32[np.ndarray, " context"]) -> None:
    """See that this computation gives libllama's logits on one window. Raises InvalidInput if it does not."""
    ours = _log_shares(network.logits(window, scored_positions(len(window))))
    theirs = _log_shares(next(iter(engine.score_windows(window[None]))))
    difference = float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())
    if not difference <= (LARGEST_DIFFERENCE if network.has_plain_weights else LARGEST_DIFFERENCE_QUANTIZED):
        what = (
            f"its output computed here differs from libllama's by {difference:.3g} nats per token: this model has "
            "something that raq does not know, and its Fisher information would be wrong"
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
    sums: FisherSums,
    *,
    first: int = 0,
    passed: Callable[[], None] = lambda: None,
) -> None:
    """Pass back through these windows, which are numbers `first` and following; labels depend on the number alone.

    `passed` is called for each block and window, on the way there and on the way back.
    """
    blocks = network.shape.blocks
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
            back, _ = make_vjp(lambda x, w=weights: network.block(x, w, sums.watch_of))(stream.pop())
            gradients[window] = back(gradients[window])
            passed()
    for window, gradient in zip(windows, gradients, strict=True):
        sums.add_lookup("token_embd.weight", window, gradient * np.float32(network.shape.embedding_scale))


def _head_gradients(
    network: Network, streams: Sequence[Float32[np.ndarray, "tokens width"]], sums: FisherSums, first: int
) -> list[Float32[np.ndarray, "tokens width"]]:
    """The gradient of each window's labels at the end of the stream; labels are drawn from the model's own output."""
    matrix, gain = network.head_weights()
    found = []
    for number, stream in enumerate(streams, start=first):
        back, inputs = make_vjp(lambda x: network.final(x, gain))(stream)
        logits_back, logits = make_vjp(lambda z: capped(z, network.shape))(inputs @ matrix.T)
        gradient, shares = _label_gradient(logits, number)
        slope = None if network.shape.has_plain_logits else logits_back(np.ones_like(shares))
        sums.add_head(network.head, inputs, shares, slope)
        found.append(back(logits_back(gradient) @ matrix))
    return found


def _label_gradient(
    logits: Float32[np.ndarray, "tokens vocabulary"], number: int
) -> tuple[Float32[np.ndarray, "tokens vocabulary"], Float32[np.ndarray, "tokens vocabulary"]]:
    """The gradient of -ln p(label) at the logits, for one label drawn for each token, and the shares p."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    gradient = shares.copy()
    for row, aim in zip(gradient, np.random.default_rng((SEED, number)).random(len(shares)), strict=True):
        cumulative = np.cumsum(row, dtype=np.float64)
        row[min(int(np.searchsorted(cumulative, aim * cumulative[-1])), row.size - 1)] -= 1
    return gradient, shares
