"""Growing sums of x xᵀ over the inputs x of one matrix, and the inputs that are held out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from jaxtyping import Float32

from raq_client.compensation.gram import Columns, MatrixGram

HELD_OUT_EVERY: Final = 8
"""Of this many windows one is held out."""
HELD_OUT_INPUTS: Final = 256
"""Inputs that are held out for a matrix, beside massive ones."""


_PANEL: Final = 256
"""Columns that are multiplied with all later ones at once: fewer make small products, more compute what is not kept.
So half of the work of a whole product is saved, as by BLAS's syrk, with NumPy's own BLAS: a second one, SciPy's, would
have threads of its own, and both then take turns on the same cores (passes back for outputs took 1.6 times as long)."""


@dataclass(eq=False)
class Sums:
    """The growing sums of one matrix, by block of columns; what is below the diagonal of a block is not kept."""

    columns: tuple[Columns, ...]
    blocks: list[Float32[np.ndarray, "width width"]]
    tokens: int = 0
    held_out: list[Float32[np.ndarray, "inputs length"]] = field(default_factory=list)

    @classmethod
    def empty(cls, columns: Iterable[Columns]) -> Self:
        """Sums over no inputs."""
        columns = tuple(columns)
        widths = [each.last - each.first for each in columns]
        return cls(columns, [np.zeros((width, width), np.float32) for width in widths])

    @classmethod
    def of(cls, matrix: MatrixGram) -> Self:
        """The sums whose means are those of `matrix`."""
        blocks = [block * np.float32(matrix.tokens) for block in matrix.blocks]
        return cls(tuple(matrix.columns()), blocks, matrix.tokens, [matrix.held_out])

    def add(self, inputs: Float32[np.ndarray, "inputs length"]) -> None:
        """Count these inputs."""
        for block, each in zip(self.blocks, self.columns, strict=True):
            part = np.ascontiguousarray(inputs[:, each.first : each.last])
            for first in range(0, len(block), _PANEL):
                panel = slice(first, first + _PANEL)
                block[panel, first:] += part[:, panel].T @ part[:, first:]
        self.tokens += len(inputs)

    def hold_out(self, inputs: Float32[np.ndarray, "inputs length"]) -> None:
        """Keep these inputs, which are not counted."""
        self.held_out.append(inputs)

    def found(self) -> MatrixGram:
        """The means so far."""
        blocks = []
        for block in self.blocks:
            upper = np.triu(block) / np.float32(max(1, self.tokens))
            blocks.append(upper + np.triu(upper, 1).T)
        held_out = np.concatenate([np.zeros((0, self.columns[-1].last), np.float32), *self.held_out])
        return MatrixGram(tuple(blocks), self.tokens, held_out)
