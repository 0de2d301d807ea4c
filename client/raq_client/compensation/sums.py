"""Growing sums of x xᵀ over the inputs x of one matrix, and the inputs that are held out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from jaxtyping import Float32

from raq_client.compensation.gram import WIDEST, Columns, Entry, GramSource, MatrixGram

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
    def going_on(cls, state: MatrixGram) -> Self:
        """The sums that `so_far` gave, to the bit."""
        return cls(tuple(state.columns()), [block.copy() for block in state.blocks], state.tokens, [state.held_out])

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
        return MatrixGram(tuple(blocks), self.tokens, self._held_out())

    def so_far(self) -> MatrixGram:
        """The sums themselves, for a state to go on from; only what lies on and above the diagonal means anything."""
        return MatrixGram(tuple(self.blocks), self.tokens, self._held_out())

    def _held_out(self) -> Float32[np.ndarray, "inputs length"]:
        return np.concatenate([np.zeros((0, self.columns[-1].last), np.float32), *self.held_out])


@dataclass(frozen=True, eq=False)
class SumsSource:
    """Growing sums as a source of entries: their means, or with `growing` the sums themselves; others from elsewhere.

    A matrix is made when it is read, so that sums are not in memory twice, and is that of this moment.
    """

    sums: Mapping[str, Sequence[Sums]]
    others: GramSource
    growing: bool

    def matrix(self, entry: str, index: int) -> MatrixGram:
        """Matrix `index` of an entry."""
        if entry not in self.sums:
            return self.others.matrix(entry, index)
        found = self.sums[entry][index]
        return found.so_far() if self.growing else found.found()


def entry_of(parts: Sequence[Sums], windows: int, widest: int = WIDEST) -> Entry:
    """What is known of an entry with these sums over `windows` windows."""
    tokens, held_out = [each.tokens for each in parts], [sum(map(len, each.held_out)) for each in parts]
    return Entry(parts[0].columns[-1].last, np.array(tokens), windows, np.array(held_out), widest)
