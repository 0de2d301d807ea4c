"""Fisher information as an importance file keeps it: how much the model's output moves with each weight of a tensor.

Rules
- The numbers are those of KL divergence: Σ_ij r_i c_j ΔW_ij² / Σ r is what a change ΔW of the tensor's weights costs,
  in nats per token, to second order. `raq_client.curvature` has the theory, and makes them.
- A matrix that nothing was seen of (an expert that no token reached) has zeros: it cost nothing on that text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from raq_solver.errors import Fault, InvalidInput


@dataclass(frozen=True, eq=False)
class Fisher:
    """What each row and each column of every matrix of one tensor adds up to, in nats per token and squared weight."""

    rows: Float32[np.ndarray, "matrices rows"]
    columns: Float32[np.ndarray, "matrices columns"]

    def __post_init__(self) -> None:
        self.rows.setflags(write=False)
        self.columns.setflags(write=False)

    def faults(self, name: str) -> list[Fault]:
        """What can't be right with these numbers."""
        if self.rows.ndim != 2 or self.columns.ndim != 2 or len(self.rows) != len(self.columns):
            shapes = f"{self.rows.shape} rows and {self.columns.shape} columns"
            return [Fault(name, f"Fisher information of {shapes} does not fit together")]
        if any(not np.isfinite(each).all() or (each < 0).any() for each in (self.rows, self.columns)):
            return [Fault(name, "Fisher information is negative or not finite; collect the importance anew")]
        return []

    def row_costs(
        self, matrix: int, rows: Sequence[int] | slice, squares: Float32[np.ndarray, "rows columns"]
    ) -> Float64[np.ndarray, " rows"]:
        """Nats per token that squared changes of these rows of one matrix cost, row by row."""
        weights = self.rows[matrix].astype(np.float64)
        total = float(weights.sum())
        if total <= 0:
            return np.zeros(len(squares))
        # Sums of squares in float32 are good to 1e-6, and a matrix product is what a processor does fastest.
        found: Float64[np.ndarray, " rows"] = (weights[rows] / total) * (squares @ self.columns[matrix])
        return found


def averaged(parts: Sequence[tuple[Fisher, float]]) -> Fisher:
    """The mean of several, by weight. Raises InvalidInput if their shapes differ."""
    first = parts[0][0]
    if any(p.rows.shape != first.rows.shape or p.columns.shape != first.columns.shape for p, _ in parts):
        raise InvalidInput(Fault("Fisher information", "is of tensors of different shapes: of different models?"))
    total = sum(weight for _, weight in parts)

    def mean(values: Sequence[Float32[np.ndarray, "..."]]) -> Float32[np.ndarray, "..."]:
        added: Float64[np.ndarray, ...] = sum(
            (weight * value.astype(np.float64) for value, (_, weight) in zip(values, parts, strict=True)),
            start=np.zeros(values[0].shape),
        )
        return (added / total).astype(np.float32)

    return Fisher(mean([part.rows for part, _ in parts]), mean([part.columns for part, _ in parts]))
