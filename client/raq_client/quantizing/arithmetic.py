"""The arithmetic of this process: what NumPy and its BLAS make of fixed products, down to the last bit.

Kernels of raq have one order for every sum and the same bits everywhere. Passes through a model are NumPy's, and their
bits depend on its version, on its BLAS, on the kernels that these choose for a processor, and on the number of threads
(equations are solved in parts). They are known here by results, not by names: two machines with one digest compute
alike, whatever they are called. The number of threads counts by itself too, as larger matrices are cut otherwise.
"""

import hashlib
import os
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Float32

_SHAPES: Final = ((64, 64, 96), (128, 256, 256), (256, 512, 384))
"""Rows, columns and inner length of the products."""
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables of the environment that limit the threads of a BLAS."""


@cache
def arithmetic_digest() -> str:
    """A digest of what sums, products, exponentials and solutions of equations are in this process; a moment's work.

    >>> len(arithmetic_digest())
    64
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = [str(cores), *(os.environ.get(name, "") for name in _THREADS)]
    state = hashlib.sha256(f"raq arithmetic 1 {' '.join(threads)}\0".encode())
    for rows, columns, inner in _SHAPES:
        left, right = _numbers(rows, inner), _numbers(columns, inner)
        products = (left @ right.T, left.T @ left, right @ np.ascontiguousarray(left.T), left @ right[0])
        for found in (*products, np.exp(left), np.sqrt(np.abs(left)), np.square(left).mean(axis=1)):
            state.update(np.ascontiguousarray(found).tobytes())
        square = (right.T @ right).astype(np.float64)
        square[np.diag_indices_from(square)] += columns
        state.update(np.linalg.solve(square, right.T.astype(np.float64)).tobytes())
        state.update(np.float64(np.einsum("ij,ij->", left, left, dtype=np.float64)).tobytes())
    return state.hexdigest()


def _numbers(rows: int, columns: int) -> Float32[np.ndarray, "rows columns"]:
    """Numbers from -0.5 to 0.5 without a pattern, the same everywhere."""
    places = np.arange(1, rows * columns + 1, dtype=np.uint64)
    mixed = (places * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return (mixed.astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)).reshape(rows, columns)
