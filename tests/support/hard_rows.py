"""Rows that are hard to quantize alike on two machines."""

import numpy as np


def hard_rows(length: int) -> np.ndarray:
    """Zeros, one outlier, denormals, huge, tiny, constant, sparse and ordinary rows, and all of float's exponents."""
    rng = np.random.default_rng(length)
    rows = rng.standard_normal((24, length))
    rows[0] = 0
    rows[1] = -0.0
    rows[2, length // 3] = 1000
    rows[3] *= 1e-42
    rows[4] *= 1e30
    rows[5] *= -1e30
    rows[6] *= 1e-30
    rows[7] = 1
    rows[8] = -1
    rows[9] *= rng.random(length) < 0.02
    rows[10] = np.abs(rows[10])
    rows[11] = -np.abs(rows[11])
    rows[12] *= 10.0 ** rng.uniform(-44, 37, length)
    rows[13] *= 6e4
    rows[14] *= 6e-5
    rows[15] = rng.standard_t(2, length)
    with np.errstate(under="ignore"):
        return rows.astype(np.float32)


def importances(length: int) -> list[np.ndarray | None]:
    """None, uneven, and half of it zero."""
    rng = np.random.default_rng(length + 1)
    uneven = rng.gamma(0.3, 1.0, length).astype(np.float32)
    half = uneven.copy()
    half[: length // 2] = 0
    return [None, uneven, half]
