"""Damped Gram matrices H, and the factors by which errors are fed forward: H⁻¹ = Uᵀ U with U upper triangular.

H is the Gram matrix with a share of its mean diagonal added: what a limited number of tokens says of pairs of columns
is partly noise, and columns without inputs must not make it singular.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from jaxtyping import Float32

import raq_native

DAMPING: Final = 0.05
"""Added to the diagonal, as a share of its mean."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A damped Gram matrix and its factor."""

    matrix: Float32[np.ndarray, "columns columns"]
    factor: Float32[np.ndarray, "columns columns"]

    @classmethod
    def of(cls, gram: Float32[np.ndarray, "columns columns"], damping: float = DAMPING) -> Self:
        """The metric of a Gram matrix; where nothing was seen at all, the identity.

        >>> Metric.of(np.diag([14, 2]).astype(np.float32), damping=0.25).matrix.tolist()
        [[16.0, 0.0], [0.0, 4.0]]
        """
        diagonal = np.diagonal(gram)
        mean = float(np.mean(diagonal, dtype=np.float64))
        damped = gram.copy()
        np.fill_diagonal(damped, diagonal + np.float32(damping * mean if mean != 0 else 1.0))
        return cls(damped, upper_factor(gram, damping))


def upper_factor(
    gram: Float32[np.ndarray, "columns columns"], damping: float = DAMPING, *, threads: int = 0
) -> Float32[np.ndarray, "columns columns"]:
    """The factor U of a damped Gram matrix; 0 below the diagonal.

    >>> upper_factor(np.diag([14, 2]).astype(np.float32), damping=0.25).tolist()
    [[0.25, 0.0], [0.0, 0.5]]
    """
    found: Float32[np.ndarray, "columns columns"] = raq_native.feedback_factor(gram, damping, threads=threads)
    return found
