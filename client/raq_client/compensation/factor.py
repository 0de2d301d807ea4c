"""Factors of Gram matrices, by which errors are fed forward: H⁻¹ = Uᵀ U with U upper triangular.

H is the Gram matrix with a share of its mean diagonal added: what a limited number of tokens says of pairs of columns
is partly noise, and columns without inputs must not make it singular.
"""

from typing import Final

import numpy as np
from jaxtyping import Float32

import raq_native

DAMPING: Final = 0.05
"""Added to the diagonal, as a share of its mean."""


def upper_factor(
    gram: Float32[np.ndarray, "columns columns"], damping: float = DAMPING, *, threads: int = 0
) -> Float32[np.ndarray, "columns columns"]:
    """The factor U of a damped Gram matrix; 0 below the diagonal.

    >>> upper_factor(np.diag([14, 2]).astype(np.float32), damping=0.25).tolist()
    [[0.25, 0.0], [0.0, 0.5]]
    """
    found: Float32[np.ndarray, "columns columns"] = raq_native.feedback_factor(gram, damping, threads=threads)
    return found
