"""Columns whose inputs were counted together, in the order in which they are rounded.

What a column loses is taken back by those after it, so the columns with the largest inputs come first: their errors
cost most, and have the most columns to go to. Columns of one block of a quant type share its scales and stay together.
"""

from dataclasses import dataclass
from math import gcd
from typing import Final, Self

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from raq_client.compensation.factor import Metric
from raq_client.compensation.gram import Columns

_LARGEST_BLOCK: Final = 256
"""Weights of the largest block of a quant type; all blocks are divisors of it."""


@dataclass(frozen=True, eq=False)
class ColumnBlock:
    """Columns of a matrix: their runs in the order of rounding, and the metric in this order.

    A run is as long as can be without dividing a block of any type that fits the columns.
    """

    columns: Columns
    runs: Int64[np.ndarray, " runs"]
    metric: Metric

    @classmethod
    def of(cls, columns: Columns, gram: Float32[np.ndarray, "length length"]) -> Self:
        """The block of columns with these statistics of inputs.

        >>> gram = np.diag([1.0] * 64 + [9.0] * 32).astype(np.float32)
        >>> ColumnBlock.of(Columns(0, 96), gram).runs.tolist()
        [2, 0, 1]
        """
        run = gcd(len(gram), _LARGEST_BLOCK)
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
