"""Drift: how the inputs of a product differ once the tensors before it are rounded, and weights that take it back.

With inputs x of the model and x' of the model whose earlier tensors are rounded, the weights that come closest to the
model's own outputs W x are W + W D (H' + λI)⁻¹ for D = E[(x - x') x'ᵀ] and H' = E[x' x'ᵀ]: the solution of least
squares (QEP: Arai and Ichikawa, arXiv 2504.09629). They are then rounded with error feedback.

Rules
- Inputs are scaled as those of Gram statistics are, both of a pair by the length of x.
- Some pairs are held out. Each tensor takes the share of its correction that is best on these: what few tokens say of
  many columns is partly noise.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from jaxtyping import Float32, Float64

from raq_client.compensation.gram import Columns, MatrixGram
from raq_client.compensation.sums import Sums

CORRECTION_DAMPING: Final = 0.1
"""Added to the diagonal of H', as a share of its mean, before it is inverted for the correction."""

Inputs = Float32[np.ndarray, "inputs length"]
Rows = Float32[np.ndarray, "rows length"]


@dataclass(eq=False)
class DriftSums:
    """Growing sums over pairs of inputs x and x' of one matrix, and the pairs that are held out."""

    drifted: Sums
    differences: list[Float32[np.ndarray, "width width"]]
    held_out: list[Inputs] = field(default_factory=list)

    @classmethod
    def empty(cls, columns: Iterable[Columns]) -> Self:
        """Sums over no pairs."""
        drifted = Sums.empty(columns)
        return cls(drifted, [np.zeros_like(block) for block in drifted.blocks])

    def add(self, inputs: Inputs, drifted: Inputs) -> None:
        """Count these pairs, scaled."""
        for place, each in enumerate(self.drifted.columns):
            part = drifted[:, each.first : each.last]
            self.differences[place] += (inputs[:, each.first : each.last] - part).T @ part
        self.drifted.add(drifted)

    def hold_out(self, inputs: Inputs, drifted: Inputs) -> None:
        """Keep these pairs, scaled, which are not counted."""
        self.held_out.append(inputs)
        self.drifted.hold_out(drifted)

    def found(self) -> "Drift":
        """The drift of the pairs so far."""
        gram = self.drifted.found()
        tokens = np.float32(max(1, gram.tokens))
        parts = tuple(
            correction(block, total / tokens) for block, total in zip(gram.blocks, self.differences, strict=True)
        )
        return Drift(gram, parts, np.concatenate([np.zeros_like(gram.held_out[:0]), *self.held_out]))


def correction(
    gram: Float32[np.ndarray, "width width"], difference: Float32[np.ndarray, "width width"]
) -> Float32[np.ndarray, "width width"]:
    """P = D (H' + λI)⁻¹ for H' and D of some columns: corrected weights are W + W P.

    >>> correction(np.diag([19, 1]).astype(np.float32), np.diag([5, 0]).astype(np.float32)).tolist()
    [[0.25, 0.0], [0.0, 0.0]]
    """
    damping = CORRECTION_DAMPING * float(np.mean(np.diagonal(gram), dtype=np.float64))
    damped: Float64[np.ndarray, "width width"] = gram.astype(np.float64)
    damped[np.diag_indices_from(damped)] += damping or 1.0
    found = np.linalg.solve(damped, difference.T.astype(np.float64)).T
    return np.ascontiguousarray(found, np.float32)


@dataclass(frozen=True, eq=False)
class Drift:
    """What is known of the drift of one matrix's inputs: `gram` of the inputs x', `parts` of the correction by block
    of columns, and the inputs x of the held-out pairs, whose x' are those of `gram`.
    """

    gram: MatrixGram
    parts: tuple[Float32[np.ndarray, "width width"], ...]
    held_out: Inputs

    def corrected(self, weights: Rows, share: float = 1.0) -> Rows:
        """The weights with this share of the correction, 0 to 1."""
        return weights + np.float32(share) * self._change(weights)

    def share(self, weights: Rows) -> float:
        """The share of the correction that brings outputs closest to those of `weights` on the held-out pairs."""
        wanted = weights @ (self.held_out - self.gram.held_out).T
        found = self._change(weights) @ self.gram.held_out.T
        length = float(np.square(found, dtype=np.float64).sum())
        return float(np.clip(np.einsum("ij,ij->", wanted, found, dtype=np.float64) / length, 0, 1)) if length else 0.0

    def _change(self, weights: Rows) -> Rows:
        found = np.empty_like(weights)
        for part, columns in zip(self.parts, self.gram.columns(), strict=True):
            found[:, columns.first : columns.last] = weights[:, columns.first : columns.last] @ part
        return found
