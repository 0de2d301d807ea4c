"""Factors of Gram matrices: H⁻¹ = Uᵀ U with U upper triangular."""

import numpy as np
from jaxtyping import Float32, Float64
from scipy.linalg import lapack

DAMPING = 0.1
"""Share of the mean diagonal that is added to the diagonal: what few tokens say of the columns together is noise."""


def upper_factor(
    gram: Float32[np.ndarray, "columns columns"], damping: float = DAMPING
) -> Float32[np.ndarray, "columns columns"]:
    """U of the damped matrix, its rows and columns that saw nothing taken as alone."""
    full = gram.astype(np.float64)
    mean = float(np.mean(np.diagonal(full)))
    full[np.diag_indices_from(full)] += damping * mean if mean != 0 else 1.0
    # H = R Rᵀ with R upper is a Cholesky factor of the matrix turned around; then U = R⁻¹.
    lower, info = lapack.dpotrf(np.ascontiguousarray(full[::-1, ::-1]), lower=1, clean=1)
    if info:
        raise ValueError("the matrix is not positive definite")
    upper: Float64[np.ndarray, "columns columns"] = np.ascontiguousarray(lower[::-1, ::-1])
    inverse, info = lapack.dtrtri(upper, lower=0)
    return np.ascontiguousarray(inverse, np.float32)
