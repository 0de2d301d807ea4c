"""Parts of tensors: consecutive chunks of rows, so that one large tensor is not one unit."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from raq_client.models.model_file import CHUNK_WEIGHTS, row_chunks
from raq_solver.tensors import Tensor

UNIT_WEIGHTS: Final = 8 * CHUNK_WEIGHTS
"""Most weights of a unit that has more than one chunk: some seconds of one core."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Chunks `chunks` of `row_chunks(tensor)`, which hold the rows `rows`."""

    tensor: Tensor
    chunks: range
    rows: range

    @property
    def name(self) -> str:
        """The tensor's name and its rows, as in a Python slice."""
        return f"{self.tensor.name}[{self.rows.start}:{self.rows.stop}]"

    @property
    def weights(self) -> int:
        """The number of weights."""
        return len(self.rows) * self.tensor.row_length


def rows_of_unit_size(tensor: Tensor, most: int = UNIT_WEIGHTS) -> Iterator[Rows]:
    """The tensor cut into parts of whole chunks, each of at most `most` weights or of one chunk.

    >>> from raq_solver.quant_types import CATALOGUE
    >>> [each.name for each in rows_of_unit_size(Tensor("w", (4, 3), CATALOGUE["F16"]))]
    ['w[0:3]']
    """
    first_chunk = first_row = 0
    end_chunk = end_row = 0
    for number, (_, _, last) in enumerate(row_chunks(tensor)):
        if number > first_chunk and (last - first_row) * tensor.row_length > most:
            yield Rows(tensor, range(first_chunk, end_chunk), range(first_row, end_row))
            first_chunk, first_row = end_chunk, end_row
        end_chunk, end_row = number + 1, last
    yield Rows(tensor, range(first_chunk, end_chunk), range(first_row, end_row))
