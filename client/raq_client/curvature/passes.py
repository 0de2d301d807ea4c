"""Passes forward and back through a model, from whose gradients sums are collected: several kinds in the same passes.

Labels are drawn from the model's own output, as Fisher information wants them (`curvature.fisher` has the theory).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from autograd import make_vjp
from jaxtyping import Float32, Float64, Int32

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


@dataclass(frozen=True, eq=False)
class HeadPass:
    """The output head in one window.

    `inputs` and the gradient at them; `shares` are the probabilities of the next token, `slope` the derivative of the
    logits with respect to the head's outputs; None: 1.
    """

    inputs: Float32[np.ndarray, "tokens width"]
    at_inputs: Float32[np.ndarray, "tokens width"]
    shares: Float32[np.ndarray, "tokens vocabulary"]
    slope: Float32[np.ndarray, "tokens vocabulary"] | None = None

    def label_variances(self) -> Float32[np.ndarray, "tokens vocabulary"]:
        """The expectation of the squared gradient at each output: p (1 - p), the variance of the label."""
        found: Float32[np.ndarray, "tokens vocabulary"] = self.shares - self.shares * self.shares
        if self.slope is not None:
            found *= self.slope * self.slope
        return found


class GradientSums:
    """Collects gradients from the passes of `add_windows`; what a collector has no use for it leaves out."""

    def begin(self, window: int) -> None:
        """The gradients that follow are of this window, by its number."""

    def watch_of(self, name: str, matrix: int, inputs: Array) -> Watch:
        """A watcher of one product."""
        return unwatched(name, matrix, inputs)

    def add_head(self, name: str, head: HeadPass) -> None:
        """Add what is known of the output head."""

    def add_lookup(
        self, name: str, tokens: Int32[np.ndarray, " tokens"], gradient: Float32[np.ndarray, "tokens width"]
    ) -> None:
        """Add the gradient at the rows of the embedding."""


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


class Collection(ABC):
    """What is collected in passes over windows: sums that grow, and the number of windows they began with."""

    def __init__(self, sums: GradientSums, begun: int) -> None:
        self.sums = sums
        self.begun = begun

    @abstractmethod
    def reached(self, windows: int) -> None:
        """So many windows are counted: save them, or do nothing."""


class Together(GradientSums):
    """The sums of several collections; those that have counted a window already leave it out."""

    def __init__(self, collections: Sequence[Collection]) -> None:
        self._collections = collections
        self._active: Sequence[GradientSums] = ()

    def begin(self, window: int) -> None:
        """The gradients that follow are of this window, for those that have not counted it."""
        self._active = [each.sums for each in self._collections if each.begun <= window]
        for sums in self._active:
            sums.begin(window)

    def watch_of(self, name: str, matrix: int, inputs: Array) -> Watch:
        """A watcher that calls those of all collections."""
        watches = [sums.watch_of(name, matrix, inputs) for sums in self._active]

        def watch(inputs: np.ndarray, gradient: np.ndarray, at_inputs: np.ndarray) -> None:
            for each in watches:
                each(inputs, gradient, at_inputs)

        return watch

    def add_head(self, name: str, head: HeadPass) -> None:
        """Add it to all collections."""
        for sums in self._active:
            sums.add_head(name, head)

    def add_lookup(
        self, name: str, tokens: Int32[np.ndarray, " tokens"], gradient: Float32[np.ndarray, "tokens width"]
    ) -> None:
        """Add it to all collections."""
        for sums in self._active:
            sums.add_lookup(name, tokens, gradient)


def pass_back(
    network: Network,
    windows: Int32[np.ndarray, "windows context"],
    collections: Sequence[Collection],
    *,
    progress: Progress | None = None,
) -> None:
    """Pass forward and back over the windows, once for all `collections`; each goes on where it began."""
    first = min(each.begun for each in collections)
    for done in passes(network, windows, Together(collections), first=first, progress=progress):
        for each in collections:
            if each.begun < done:
                each.reached(done)


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
    return max(1, min(WINDOWS_AT_ONCE, KEPT_BYTES // stream_bytes(shape, context)))


def stream_bytes(shape: Shape, context: int) -> int:
    """Bytes of the residual streams before all blocks, and after them, of one window."""
    return np.dtype(np.float32).itemsize * context * shape.width * (shape.blocks + 1)


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
    gradients = head_gradients(network, [stream.pop() for stream in streams], sums, first)
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


def head_gradients(
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
        at_inputs = logits_back(gradient) @ matrix
        sums.begin(number)
        sums.add_head(network.head, HeadPass(inputs, at_inputs, shares, slope))
        found.append(back(at_inputs))
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
