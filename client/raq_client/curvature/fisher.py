"""Collect the Fisher information of a model's weights on text: how much its output changes with each of them.

The cost of rounded inputs is collected beside it (`curvature.rounded_inputs`).

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
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int32

from raq_client.curvature.information import Fisher, joined
from raq_client.curvature.layers import Array, Watch
from raq_client.curvature.passes import Collection, GradientSums, HeadPass, Progress, network_for, pass_back
from raq_client.curvature.rounded_inputs import rounding_costs
from raq_client.engine import Engine
from raq_client.models.model_file import ModelFile
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import INPUT_BLOCKS


class FisherSums(GradientSums):
    """Sums of squared gradients of every matrix over windows of `tokens` tokens."""

    def __init__(self, model: ModelFile, tokens: int) -> None:
        self._tokens = tokens
        self._window = 0
        self._levels: dict[int, dict[str, float]] = {}
        self._rows: dict[str, Float64[np.ndarray, "matrices rows"]] = {}
        self._columns: dict[str, Float64[np.ndarray, "matrices columns"]] = {}
        self._inputs: dict[str, Float64[np.ndarray, " blocks"]] = {}
        for tensor in model.tensors:
            if len(tensor.shape) > 1:
                shape = tensor.matrices, tensor.rows // tensor.matrices, tensor.row_length
                self._rows[tensor.name], self._columns[tensor.name] = np.zeros(shape[:2]), np.zeros(shape[::2])
                self._inputs[tensor.name] = np.zeros(len(INPUT_BLOCKS))

    def clear(self) -> None:
        """Begin again with sums of 0."""
        for sums in (*self._rows.values(), *self._columns.values(), *self._inputs.values()):
            sums[:] = 0
        self._levels = {}

    def begin(self, window: int) -> None:
        """The gradients that follow are of this window, by its number."""
        self._window = window
        self._levels.setdefault(window, {})

    def watch_of(self, name: str, matrix: int, _inputs: Array) -> Watch:
        """A watcher that adds the squared gradients of one product."""

        def watch(inputs: np.ndarray, gradient: np.ndarray, at_inputs: np.ndarray) -> None:
            self._add(name, matrix, *_sums_of_squares(inputs, gradient))
            self._inputs[name] += rounding_costs(inputs, at_inputs) / (2 * self._tokens)

        return watch

    def add_head(self, name: str, head: HeadPass) -> None:
        """Add the output head's squared gradients, as the exact expectation over labels (`label_variances`)."""
        spread = head.label_variances()
        squares = np.square(head.inputs)
        self._add(name, 0, squares.sum(axis=1) @ spread, spread.sum(axis=1) @ squares)
        self._inputs[name] += rounding_costs(head.inputs, head.at_inputs) / (2 * self._tokens)

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
                (self._inputs[name] / windows).astype(np.float32),
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


class FisherCollection(Collection):
    """Fisher information that is collected: `found` of the first `done` windows.

    `start` is the result of the first windows and their number; `save` is called with the result so far and its number
    of windows. The sums of some windows at a time are rounded and added, so that interrupted work, and work in parts,
    ends with the same bits.
    """

    def __init__(
        self,
        model: ModelFile,
        tokens: int,
        start: tuple[Mapping[str, Fisher], int] = ({}, 0),
        save: Callable[[Mapping[str, Fisher], int], None] | None = None,
    ) -> None:
        self.found, self.done = dict(start[0]), start[1]
        self._growing, self._save = FisherSums(model, tokens), save
        super().__init__(self._growing, self.done)

    def reached(self, windows: int) -> None:
        """Add the sums of the windows since the last call to those before, and save them."""
        further = windows - self.done
        self.found = joined(self.found, self.done, self._growing.found(further), further)
        self.done = windows
        self._growing.clear()
        if self._save is not None:
            self._save(self.found, windows)


def collect_fisher(
    model: ModelFile,
    engine: Engine,
    windows: Int32[np.ndarray, "windows context"],
    *,
    start: tuple[Mapping[str, Fisher], int] = ({}, 0),
    save: Callable[[Mapping[str, Fisher], int], None] | None = None,
    progress: Progress | None = None,
    beside: Sequence[Collection] = (),
) -> dict[str, Fisher]:
    """The Fisher information of every matrix of `model` on these windows.

    `engine` must have the same model loaded; its logits verify the forward pass computed here. `start` and `save` are
    those of `FisherCollection`. `beside` is collected from the same passes.

    Raises InvalidInput if the architecture is not supported, the logits differ from libllama's, or a number is not
    finite.
    """
    network, windows = network_for(model, engine, windows, begun=start[1] > 0)
    collection = FisherCollection(model, windows.shape[1], start, save)
    pass_back(network, windows, [collection, *beside], progress=progress)
    return collection.found
