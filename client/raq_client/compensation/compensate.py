"""Compensation: a tensor rounded with error feedback by its Gram statistics, where that helps on held-out inputs.

Rules
- Whether a matrix is compensated is decided by the mean squared error of its outputs on inputs that were held out from
  the statistics, over some of its rows, against plain rounding: too few tokens, or too different ones, do no harm.
- A matrix without statistics or with few tokens is rounded plainly.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from jaxtyping import Float32, UInt8

import raq_native
from raq_client.compensation.factor import upper_factor
from raq_client.compensation.gram import Columns, Gram, MatrixGram
from raq_solver.tensors import Tensor

LEAST_TOKENS_PER_COLUMN: Final = 0.25
"""A matrix with fewer tokens than this share of its columns (an expert that was rarely reached) is rounded plainly."""
TESTED_ROWS: Final = 64
"""Rows of a matrix on which compensation is tested."""
_FACTORS_KEPT: Final = 3
"""Factors kept for the next tensors: query, key and value, gate and up follow each other with others between."""

Rows = Float32[np.ndarray, "rows length"]
Effort = Literal["fast", "best"]


@dataclass(frozen=True, eq=False)
class MatrixFactor:
    """The factor of one matrix's Gram statistics, by block of columns, and the statistics themselves."""

    gram: MatrixGram
    parts: tuple[tuple[Columns, Float32[np.ndarray, "width width"]], ...]

    def quantize(
        self, quant_type: str, weights: Rows, *, threads: int = 0, effort: Effort = "fast"
    ) -> UInt8[np.ndarray, "rows size"]:
        """Rows of the matrix as blocks of a type, rounded with error feedback. Raises ValueError as the kernel does."""
        found = [
            raq_native.quantize_with_feedback(
                quant_type,
                np.ascontiguousarray(weights[:, columns.first : columns.last]),
                factor,
                threads=threads,
                effort=effort,
            )
            for columns, factor in self.parts
        ]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def gain(self, quant_type: str, weights: Rows, plain: UInt8[np.ndarray, "rows size"], *, effort: Effort) -> float:
        """Error of these rows with feedback relative to that of the `plain` blocks, on the held-out inputs.

        Below 1 where feedback helps; 1 if there are no held-out inputs, or plain rounding has no error on them.
        """
        length = weights.shape[1]
        fed = self.quantize(quant_type, weights, effort=effort)
        errors = [
            self.gram.held_out_energy(raq_native.dequantize(quant_type, blocks, length) - weights)
            for blocks in (fed, plain)
        ]
        return errors[0] / errors[1] if errors[1] > 0 else 1.0


@dataclass(frozen=True, eq=False)
class Compensation:
    """Error feedback for the tensors of one model by its Gram statistics; the last factors are kept."""

    gram: Gram
    _kept: "OrderedDict[tuple[str, int], MatrixFactor | None]" = field(default_factory=OrderedDict)

    def factor(self, tensor: Tensor, matrix: int) -> MatrixFactor | None:
        """The factor for a matrix; None if its statistics are missing or of too few tokens.

        Raises InvalidInput if they can't be read.
        """
        entry = self.gram.entry_of(tensor)
        if entry is None:
            return None
        key = entry, matrix
        if key not in self._kept:
            while len(self._kept) >= _FACTORS_KEPT:
                self._kept.popitem(last=False)
            self._kept[key] = self._made(entry, matrix)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _made(self, entry: str, matrix: int) -> MatrixFactor | None:
        known = self.gram.entries[entry]
        if known.tokens[matrix] < LEAST_TOKENS_PER_COLUMN * known.length:
            return None
        gram = self.gram.source.matrix(entry, matrix)
        parts = zip(gram.columns(), map(upper_factor, gram.blocks), strict=True)
        return MatrixFactor(gram, tuple(parts))
