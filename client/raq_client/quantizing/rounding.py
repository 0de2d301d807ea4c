"""How the weights of a model are rounded: by importance, and with error feedback where Gram statistics help.

The one place that chooses between plain rounding and compensation; files, profiles and trials in memory all use it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float32, Int64, UInt8

import raq_native
from raq_client.compensation.compensate import TESTED_ROWS, Compensation, Effort, MatrixFactor
from raq_client.compensation.row_feedback import RowFactor
from raq_client.importance.imatrix import Importance
from raq_client.models.model_file import ModelFile
from raq_client.quantizing.devices import CPU, Device
from raq_solver.quant_types import UNQUANTIZED, QuantType
from raq_solver.tensors import Tensor

Rows = Float32[np.ndarray, "rows length"]
Blocks = UInt8[np.ndarray, "rows size"]
ReadRows = Callable[[Int64[np.ndarray, " places"]], Rows]
"""Returns the rows of one matrix at these places."""


@dataclass(frozen=True, eq=False)
class MatrixRounding:
    """How one matrix is rounded to one type.

    `factor` feeds errors forward between columns, `rows` between rows too; `gain` is the error relative to plain
    rounding, 1 without feedback.
    """

    rounding: "Rounding"
    quant_type: QuantType
    columns: Float32[np.ndarray, " length"] | None
    factor: MatrixFactor | None = None
    rows: RowFactor | None = None
    gain: float = 1.0

    @property
    def plain(self) -> "MatrixRounding":
        """The same without error feedback."""
        return replace(self, factor=None, rows=None, gain=1.0)

    def blocks(self, weights: Rows) -> Blocks:
        """Rows of the matrix in the type; all of them where rows depend on each other.

        Raises ValueError if a weight or importance is not finite.
        """
        by, name, factor = self.rounding, self.quant_type.name, self.factor
        if factor is not None:
            fed = partial(factor.quantize, name, effort=by.effort, call=by.device.call)
            if self.rows is None:
                return fed(weights, threads=by.threads)
            return self.rows.quantize(
                weights, lambda rows, block, threads: fed(rows, block, threads=threads), by.threads
            )
        found: Blocks = by.device.call(
            raq_native.quantize, self.quant_type.name, weights, self.columns, threads=by.threads, effort=by.effort
        )
        return found


@dataclass(frozen=True, eq=False)
class Rounding:
    """The statistics and settings for rounding a model's tensors.

    `threads` 0 means one per core. On a CUDA `device` they only choose codes again after error feedback; whether
    feedback helps is tested on the CPU, since few rows are not worth sending their factor. With `sequential` a file's
    blocks are rounded one after the other (`quantizing.sequential`); profiles and trials in memory round each tensor by
    itself.
    """

    importance: Importance | None = None
    compensation: Compensation | None = None
    effort: Effort = "fast"
    threads: int = 0
    device: Device = CPU
    sequential: bool = False

    @property
    def plain(self) -> "Rounding":
        """The same without error feedback, as llama-quantize rounds."""
        return replace(self, compensation=None, sequential=False)

    def columns(self, tensor: Tensor) -> Float32[np.ndarray, "matrices length"] | None:
        """Weights of the columns of each matrix in plain rounding; None if all count equally."""
        return None if self.importance is None else self.importance.rounding(tensor)

    def needs_all_rows(self, tensor: Tensor) -> bool:
        """Whether the rows of a matrix may depend on each other, and must be rounded together."""
        return self.compensation is not None and tensor.name in self.compensation.gram.outputs

    def of_matrix(self, tensor: Tensor, matrix: int, wanted: QuantType, read: ReadRows) -> MatrixRounding:
        """How matrix `matrix` of a tensor is rounded to `wanted`; `read` returns rows of it to test feedback on.

        Raises InvalidInput if Gram statistics can't be read, ValueError if a weight or importance is not finite.
        """
        columns = self.columns(tensor)
        plain = MatrixRounding(self, wanted, None if columns is None else columns[matrix])
        if self.compensation is None or wanted.name in UNQUANTIZED:
            return plain
        factor = self.compensation.factor(tensor, matrix, wanted)
        if factor is None:
            return plain
        rows = np.ascontiguousarray(read(sampled_rows(tensor.rows // tensor.matrices)))
        gain = factor.gain(wanted.name, rows, plain.blocks(rows), effort=self.effort)
        if gain >= 1:
            return plain
        between = self.compensation.rows(tensor, matrix)
        return replace(plain, factor=factor, rows=between, gain=gain * (1.0 if between is None else between.gain))


def sampled_rows(rows: int) -> Int64[np.ndarray, " places"]:
    """The rows of a matrix of `rows` rows on which feedback is tested: evenly spread, the same everywhere.

    >>> sampled_rows(3).tolist(), sampled_rows(256)[:3].tolist()
    ([0, 1, 2], [2, 6, 10])
    """
    count = min(rows, TESTED_ROWS)
    return ((2 * np.arange(count) + 1) * rows // (2 * count)).astype(np.int64)


def rows_of(model: ModelFile, tensor: Tensor, matrix: int) -> ReadRows:
    """A function that reads some rows of one matrix of a tensor, by their places in it."""
    first = matrix * (tensor.rows // tensor.matrices)
    return lambda places: np.concatenate([model.weights(tensor, row, row + 1) for row in (first + places).tolist()])
