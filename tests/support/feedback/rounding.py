"""Rounding with error feedback: what the rounding of a column does to the output, the columns after it take back.

For a matrix W of rows w that meets inputs x, the expected squared change of the outputs is tr(ΔW H ΔWᵀ), H = E[x xᵀ].
With H⁻¹ = Uᵀ U (U upper triangular), rounding column j and spreading its error e = (w_j - q_j) / U_jj over the columns
k > j as w_k -= e U_jk is optimal for what is left, and costs e² (GPTQ, Frantar and others, arXiv 2210.17323; LDLQ,
Chee and others, arXiv 2307.13304). Here the scales of a block are searched on the weights as they have become, by the
kernels that write files, with 1 / U_jj² as the importance of column j: what an error there costs after the feedback.
"""

import numpy as np
from jaxtyping import Float32, Int32, UInt8

import raq_native
from raq_client.compensation.compensate import Effort
from support.feedback.code_layout import CodeLayout

MACRO = 256
"""Columns after which the errors are spread over all that follow, by one product of matrices."""


def compensated(
    layout: CodeLayout,
    weights: Float32[np.ndarray, "rows columns"],
    factor: Float32[np.ndarray, "columns columns"],
    *,
    effort: Effort = "fast",
    threads: int = 0,
) -> UInt8[np.ndarray, "rows bytes"]:
    """The blocks of a matrix, rounded with error feedback by the upper factor U of its inputs."""
    columns = weights.shape[1]
    left = np.ascontiguousarray(weights.T)  # one column a line: they are what is worked on
    parts = []
    for start in range(0, columns, MACRO):
        stop = min(start + MACRO, columns)
        errors, blocks = _macro(layout, left[start:stop], factor[start:stop, start:stop], effort, threads)
        parts.append(blocks)
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return np.concatenate(parts, axis=1)


def _macro(
    layout: CodeLayout,
    left: Float32[np.ndarray, "some rows"],
    factor: Float32[np.ndarray, "some some"],
    effort: Effort,
    threads: int,
) -> tuple[Float32[np.ndarray, "some rows"], UInt8[np.ndarray, "rows bytes"]]:
    """Round some columns, each block with its own scales; the errors over U_jj, and the blocks."""
    length = len(layout.byte)
    diagonal = np.diagonal(factor)
    errors = np.empty_like(left)
    parts = []
    for first in range(0, len(left), length):
        last = first + length
        importance = np.ascontiguousarray((1 / np.square(diagonal[first:last])).astype(np.float32))
        turned = np.ascontiguousarray(left[first:last].T)
        blocks = raq_native.quantize(layout.name, turned, importance, threads=threads, effort=effort)
        blocks = blocks.reshape(len(turned), -1)
        rounded = _Rounding(layout, blocks)
        codes = np.empty((length, left.shape[1]), np.int32)
        for column in range(first, last):
            codes[column - first], value = rounded.nearest(column - first, left[column])
            errors[column] = (left[column] - value) / diagonal[column]
            left[column + 1 :] -= factor[column, column + 1 :, None] * errors[column]
        parts.append(layout.write(blocks, codes))
    return errors, np.concatenate(parts, axis=1)


class _Rounding:
    """Rounds the weights of blocks to the values that their scales allow."""

    def __init__(self, layout: CodeLayout, blocks: UInt8[np.ndarray, "rows bytes"]) -> None:
        self._layout = layout
        if layout.linear:
            self._base, step = layout.grid(blocks)
            self._step = step
            self._inverse = np.divide(1, step, out=np.zeros_like(step), where=step != 0)
        else:
            self._table = layout.table(blocks)

    def nearest(
        self, weight: int, values: Float32[np.ndarray, " rows"]
    ) -> tuple[Int32[np.ndarray, " rows"], Float32[np.ndarray, " rows"]]:
        """The code of the nearest value in each row, and that value."""
        if self._layout.linear:
            lowest = self._layout.lowest
            code = np.rint((values - self._base[weight]) * self._inverse[weight])
            code = np.clip(code, lowest, lowest + self._layout.codes - 1)
            return code.astype(np.int32), self._base[weight] + self._step[weight] * code
        table = self._table[:, weight]
        code = np.abs(table - values).argmin(axis=0)
        return code.astype(np.int32), np.take_along_axis(table, code[None], axis=0)[0]
