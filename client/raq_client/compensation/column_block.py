"""Columns whose inputs were counted together, in the order in which they are rounded.

What a column loses is taken back by those after it, so the columns with the largest inputs come first: their errors
cost most, and have the most columns to go to. Columns of one block of a quant type share its scales and stay together.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from raq_client.compensation.factor import Metric
from raq_client.compensation.gram import Columns

_LARGEST_BLOCK: Final = 256
"""Weights of the largest block of a quant type; all blocks are divisors of it."""


def run_of(length: int, block: int) -> int:
    """How many columns of a row of `length` stay together for a type with blocks of `block` weights.

    The shorter the better, but an order has a factor of its own. So where all types fit, one order serves all.

    >>> run_of(576, 32), run_of(576, 64), run_of(1536, 32)
    (32, 64, 256)
    """
    return block if length % _LARGEST_BLOCK else _LARGEST_BLOCK


@dataclass(frozen=True, eq=False)
class ColumnBlock:
    """Columns of a matrix: their runs in the order of rounding, and the metric in this order."""

    columns: Columns
    runs: Int64[np.ndarray, " runs"]
    metric: Metric

    @classmethod
    def of(cls, columns: Columns, gram: Float32[np.ndarray, "length length"], run: int) -> Self:
        """The block of columns with these statistics of inputs, in runs of `run` columns, which divides their number.

        >>> gram = np.diag([1.0] * 64 + [9.0] * 32).astype(np.float32)
        >>> ColumnBlock.of(Columns(0, 96), gram, 32).runs.tolist()
        [2, 0, 1]
        """
        runs = np.argsort(-np.diagonal(gram).reshape(-1, run).mean(axis=1), kind="stable")
        places = _places(runs, run)
        return cls(columns, runs, Metric.of(np.ascontiguousarray(gram[np.ix_(places, places)])))

    def ordered(self, weights: Float32[np.ndarray, "rows all"]) -> Float32[np.ndarray, "rows length"]:
        """These columns of the weights, in the order of rounding."""
        length = self.columns.last - self.columns.first
        return np.ascontiguousarray(weights[:, self.columns.first + _places(self.runs, length // len(self.runs))])

    def restored(self, blocks: UInt8[np.ndarray, "rows size"]) -> UInt8[np.ndarray, "rows size"]:
        """The bytes of these columns, rounded in that order, in their own order."""
        in_order = blocks.reshape(len(blocks), len(self.runs), -1)
        found = np.empty_like(in_order)
        found[:, self.runs] = in_order
        return found.reshape(blocks.shape)


def _places(runs: Int64[np.ndarray, " runs"], length: int) -> Int64[np.ndarray, " columns"]:
    """Columns of runs, each of some length."""
    places: Int64[np.ndarray, " columns"] = (runs[:, None] * length + np.arange(length)).ravel()
    return places
