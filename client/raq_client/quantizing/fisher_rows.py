"""The cost of changes to some rows of a tensor, by its Fisher information and by its importance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float32, Float64

from raq_client.curvature.information import Fisher
from raq_solver.tensors import Tensor


@dataclass(frozen=True, eq=False)
class RowCosts:
    """For each row, Σ h ΔW² and the cost in nats per token."""

    squared_errors: Float64[np.ndarray, " rows"]
    costs: Float64[np.ndarray, " rows"]


@dataclass(frozen=True, eq=False)
class FisherRows:
    """Some rows of one matrix: their places in it, and the importance of its columns."""

    fisher: Fisher
    matrix: int
    places: Sequence[int] | slice
    importance: Float32[np.ndarray, " length"]

    @classmethod
    def of(
        cls, fisher: Fisher, tensor: Tensor, rows: Sequence[int], importance: Float32[np.ndarray, " length"] | None
    ) -> Self:
        """Rows of `tensor` by their numbers, which must lie in one matrix."""
        per_matrix = tensor.rows // tensor.matrices
        matrix = rows[0] // per_matrix
        counted = np.ones(tensor.row_length, np.float32) if importance is None else importance
        return cls(fisher, matrix, [row - matrix * per_matrix for row in rows], counted)

    def sums(self, changes: Float32[np.ndarray, "rows length"]) -> RowCosts:
        """The cost of these changes to the rows' weights."""
        squares = np.square(changes)
        return RowCosts(
            (squares @ self.importance).astype(np.float64), self.fisher.row_costs(self.matrix, self.places, squares)
        )
