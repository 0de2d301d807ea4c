"""Fisher information as stored in an importance file: how much the model's output changes with a tensor's weights.

Rules
- The unit is KL divergence: Σ_ij r_i c_j ΔW_ij² / Σ r is the cost of a change ΔW of the tensor's weights in nats per
  token, to second order. It is computed in `curvature.fisher`, which also has the theory.
- A matrix without inputs (an expert that no token reached) has zeros: it had no effect on that text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from raq_solver.errors import Fault, InvalidInput


@dataclass(frozen=True, eq=False)
class Fisher:
    """Row and column sums for every matrix of one tensor, in nats per token and squared weight."""

    rows: Float32[np.ndarray, "matrices rows"]
    columns: Float32[np.ndarray, "matrices columns"]

    def __post_init__(self) -> None:
        self.rows.setflags(write=False)
        self.columns.setflags(write=False)

    def faults(self, name: str) -> list[Fault]:
        """The faults of these numbers; `name` is the tensor's."""
        if self.rows.ndim != 2 or self.columns.ndim != 2 or len(self.rows) != len(self.columns):
            shapes = f"{self.rows.shape} rows and {self.columns.shape} columns"
            return [Fault(name, f"Fisher information of {shapes} does not fit together")]
        if any(not np.isfinite(each).all() or (each < 0).any() for each in (self.rows, self.columns)):
            return [Fault(name, "Fisher information is negative or not finite; collect the importance again")]
        return []

    def row_costs(
        self, matrix: int, rows: Sequence[int] | slice, squares: Float32[np.ndarray, "rows columns"]
    ) -> Float64[np.ndarray, " rows"]:
        """The cost in nats per token of the squared changes `squares` of these rows of one matrix, by row."""
        weights = self.rows[matrix].astype(np.float64)
        total = float(weights.sum())
        if total <= 0:
            return np.zeros(len(squares))
        # A float32 matrix product is fast, and sums of squares in it have a relative error of only 1e-6.
        found: Float64[np.ndarray, " rows"] = (weights[rows] / total) * (squares @ self.columns[matrix])
        return found


def joined(one: Mapping[str, Fisher], windows: int, other: Mapping[str, Fisher], further: int) -> dict[str, Fisher]:
    """The means over `windows` and `further` windows together; at least one of the numbers is above 0.

    A tensor that is not in one of them had no gradient there. Raises InvalidInput if the shapes of a tensor differ.
    """
    found = {}
    for name in sorted({*one, *other}):
        present = one.get(name) or other[name]
        nothing = Fisher(np.zeros_like(present.rows), np.zeros_like(present.columns))
        found[name] = averaged([(one.get(name, nothing), windows), (other.get(name, nothing), further)])
    return found


def averaged(parts: Sequence[tuple[Fisher, float]]) -> Fisher:
    """The weighted mean of several. Raises InvalidInput if their shapes differ."""
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
