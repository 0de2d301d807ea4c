"""Estimate a tensor's relative errors from a sample of its rows.

Rules
- The rows of each matrix (each expert is one) are split into as many strata of neighbouring rows as rows are wanted,
  and one row is drawn from each. The draw depends only on the tensor's name and matrix, so every run on every machine
  measures the same rows.
- The relative error is the ratio of two estimated sums. Its standard error is that of the ratio estimator (delta
  method) for rows drawn at random from each matrix: Cochran, Sampling Techniques, 3rd ed., eq. 6.13. Where
  neighbouring rows are similar, stratification makes the true error smaller than that.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64


@dataclass(frozen=True, eq=False)
class RowDraw:
    """Drawn rows of one matrix: their `places` in ascending order, and how many rows each one `stands_for`."""

    places: Int64[np.ndarray, " drawn"]
    stands_for: Int64[np.ndarray, " drawn"]


@dataclass(frozen=True, eq=False)
class RowSums:
    """Σ h (W - Ŵ)² and Σ h W² of the drawn rows of one matrix, at each type."""

    draw: RowDraw
    squared_errors: Float64[np.ndarray, "types drawn"]
    energies: Float64[np.ndarray, " drawn"]


@dataclass(frozen=True, eq=False)
class SampledErrors:
    """Estimates for a whole tensor: relative errors with their standard errors by type, and Σ h W²."""

    errors: Float64[np.ndarray, " types"]
    standard_errors: Float64[np.ndarray, " types"]
    energy: float


def draw_rows(name: str, matrix: int, rows: int, count: int) -> RowDraw:
    """Draw one row from each of `count` strata of the `rows` rows of a matrix; 2 ≤ count ≤ rows."""
    assert 2 <= count <= rows, "a variance needs 2 rows, and no row is drawn twice"
    seed = int.from_bytes(hashlib.sha256(f"{name}\0{matrix}".encode()).digest()[:16])
    edges = np.arange(count + 1, dtype=np.int64) * rows // count
    sizes = np.diff(edges)
    inside = np.floor(np.random.default_rng(seed).random(count) * sizes).astype(np.int64)
    return RowDraw(edges[:-1] + inside, sizes)


def estimate_errors(matrices: Sequence[RowSums]) -> SampledErrors:
    """Estimate the errors of a whole tensor from the drawn rows of its matrices."""
    squared = sum(each.squared_errors @ each.draw.stands_for for each in matrices)
    energy = float(sum(each.energies @ each.draw.stands_for for each in matrices))
    if energy <= 0:
        nothing = np.zeros(len(matrices[0].squared_errors))
        return SampledErrors(nothing, nothing, 0.0)
    errors = np.asarray(squared, np.float64) / energy
    variance = np.zeros_like(errors)
    for each in matrices:
        drawn, rows = each.energies.size, int(each.draw.stands_for.sum())
        residuals = each.squared_errors - errors[:, None] * each.energies
        variance += rows * (rows - drawn) / drawn * residuals.var(axis=1, ddof=1)
    return SampledErrors(errors, np.sqrt(variance) / energy, energy)
