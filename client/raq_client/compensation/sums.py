"""Growing sums of x xᵀ over the inputs x of one matrix, and the inputs that are held out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Final, Self

import numpy as np
from jaxtyping import Float32

from raq_client.compensation.gram import Columns, MatrixGram
from raq_solver.errors import Fault, InvalidInput

HELD_OUT_EVERY: Final = 8
"""Of this many windows one is held out."""
HELD_OUT_INPUTS: Final = 256
"""Inputs that are held out for a matrix, beside massive ones."""


def check_library() -> None:
    """Raise InvalidInput if SciPy is not installed, which the sums are made with."""
    if find_spec("scipy") is None:
        raise InvalidInput(Fault("--gram", "collecting Gram statistics needs SciPy: pip install 'raq[feedback]'"))


@dataclass(eq=False)
class Sums:
    """The growing sums of one matrix, by block of columns."""

    columns: tuple[Columns, ...]
    blocks: list[Float32[np.ndarray, "width width"]]
    tokens: int = 0
    held_out: list[Float32[np.ndarray, "inputs length"]] = field(default_factory=list)

    @classmethod
    def empty(cls, columns: Iterable[Columns]) -> Self:
        """Sums over no inputs."""
        columns = tuple(columns)
        widths = [each.last - each.first for each in columns]
        return cls(columns, [np.zeros((width, width), np.float32, order="F") for width in widths])

    @classmethod
    def of(cls, matrix: MatrixGram) -> Self:
        """The sums whose means are those of `matrix`."""
        blocks = [np.asfortranarray(block * np.float32(matrix.tokens)) for block in matrix.blocks]
        return cls(tuple(matrix.columns()), blocks, matrix.tokens, [matrix.held_out])

    def add(self, inputs: Float32[np.ndarray, "inputs length"]) -> None:
        """Count these inputs."""
        from scipy.linalg import blas

        for place, (block, each) in enumerate(zip(self.blocks, self.columns, strict=True)):
            part = np.ascontiguousarray(inputs[:, each.first : each.last])
            # Only the lower triangle, in place: half the work of a product, and no copy of the sums.
            self.blocks[place] = blas.ssyrk(1.0, part.T, beta=1.0, c=block, lower=1, overwrite_c=1)
        self.tokens += len(inputs)

    def hold_out(self, inputs: Float32[np.ndarray, "inputs length"]) -> None:
        """Keep these inputs, which are not counted."""
        self.held_out.append(inputs)

    def found(self) -> MatrixGram:
        """The means so far."""
        blocks = []
        for block in self.blocks:
            # scipy names triangles in column order: what it filled is the upper one of the C-ordered matrix.
            upper = np.triu(block.T) / np.float32(max(1, self.tokens))
            blocks.append(upper + np.triu(upper, 1).T)
        held_out = np.concatenate([np.zeros((0, self.columns[-1].last), np.float32), *self.held_out])
        return MatrixGram(tuple(blocks), self.tokens, held_out)
