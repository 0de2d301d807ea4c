"""Compensation: a tensor rounded with error feedback by its Gram statistics, where that helps on held-out inputs.

Errors are fed forward between the columns of a row, by the statistics of inputs, and between rows by those of outputs.

Rules
- Whether a matrix is compensated is decided by the mean squared error of its outputs on inputs that were held out from
  the statistics, over some of its rows, against plain rounding: too few tokens, or too different ones, do no harm.
- A matrix without statistics or with few tokens is rounded plainly.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

import raq_native
from raq_client.compensation.column_block import ColumnBlock, run_of
from raq_client.compensation.gram import Gram, MatrixGram, curvature_entry, output_entry
from raq_client.compensation.row_feedback import RowBlock, RowFactor
from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import QuantType
from raq_solver.tensors import Tensor

LEAST_TOKENS_PER_COLUMN: Final = 0.25
"""A matrix with fewer tokens than this share of its columns (an expert that was rarely reached) is rounded plainly."""
TESTED_ROWS: Final = 64
"""Rows of a matrix on which compensation is tested."""
SWEEPS: Final = 4
"""How often each code is chosen again after feedback: docs/compensation.md has what each time is worth."""
_FACTORS_KEPT: Final = 4
"""Factors kept for the next tensors: query, key and value, gate and up follow each other with others between, and
several tensors are rounded at once."""

Rows = Float32[np.ndarray, "rows length"]
Effort = Literal["fast", "best"]
Call = Callable[..., UInt8[np.ndarray, "rows size"]]
"""Calls a function of raq_native with the arguments that follow it, on some device."""
_Key = TypeVar("_Key")
_Factor = TypeVar("_Factor")


def _on_cpu(function: Call, *arguments: object, **options: object) -> UInt8[np.ndarray, "rows size"]:
    return function(*arguments, **options)


@dataclass(frozen=True, eq=False)
class MatrixFactor:
    """The metric of one matrix's inputs, by block of columns, and the Gram statistics it is of."""

    gram: MatrixGram
    blocks: tuple[ColumnBlock, ...]

    def quantize(
        self,
        quant_type: str,
        weights: Rows,
        outputs: RowBlock | None = None,
        *,
        threads: int = 0,
        effort: Effort = "fast",
        call: Call = _on_cpu,
    ) -> UInt8[np.ndarray, "rows size"]:
        """Rows of the matrix as blocks of a type, rounded with error feedback between columns; then codes chosen again.

        With the metric of their outputs, whose order the rows have, also between rows. Feedback runs where `call` calls
        it; codes are chosen again on the CPU. Raises ValueError as the kernels do, and what `call` does.
        """
        found = []
        for block in self.blocks:
            part, inputs = block.ordered(weights), block.metric
            of_rows = None if outputs is None else outputs.metric
            fed = call(
                raq_native.quantize_with_feedback,
                quant_type,
                part,
                inputs.factor,
                None if of_rows is None else of_rows.factor,
                threads=threads,
                effort=effort,
            )
            refined = raq_native.refine_codes(
                quant_type,
                part,
                fed,
                inputs.matrix,
                None if of_rows is None else of_rows.matrix,
                sweeps=SWEEPS,
                threads=threads,
            )
            found.append(block.restored(refined))
        return found[0] if len(found) == 1 else np.concatenate(found, axis=1)

    def gain(self, quant_type: str, weights: Rows, plain: UInt8[np.ndarray, "rows size"], *, effort: Effort) -> float:
        """Error of these rows with feedback relative to that of the `plain` blocks, on held-out inputs of usual length.

        Below 1 where feedback helps; 1 if it does not on all held-out inputs, if there are none, or if plain rounding
        has no error on them. First tokens are one direction, in which feedback leaves nothing: they decide whether it
        is safe (DECISIONS 64), but are too few of the tokens of a text to count in what it leaves.
        """
        length = weights.shape[1]
        fed = self.quantize(quant_type, weights, effort=effort)
        (with_it, usual_with_it), (without, usual_without) = (
            self.gram.held_out_energies(raq_native.dequantize(quant_type, blocks, length) - weights)
            for blocks in (fed, plain)
        )
        if with_it >= without or usual_without <= 0:
            return 1.0
        return usual_with_it / usual_without


@dataclass(frozen=True, eq=False)
class Compensation:
    """Error feedback for the tensors of one model by its Gram statistics; the last factors are kept.

    Threads may share it: each factor is made once, by all cores, while others wait.
    """

    gram: Gram
    _making: threading.Lock = field(default_factory=threading.Lock)
    _kept: "OrderedDict[tuple[str, int, int], MatrixFactor | None]" = field(default_factory=OrderedDict)
    _rows_kept: "OrderedDict[tuple[str, int], RowFactor | None]" = field(default_factory=OrderedDict)

    def factor(self, tensor: Tensor, matrix: int, wanted: QuantType) -> MatrixFactor | None:
        """The factor to round a matrix to a type; None if its statistics are missing or of too few tokens.

        Raises InvalidInput if they can't be read.
        """
        entry = self.gram.entry_of(tensor)
        if entry is None:
            return None
        run = run_of(tensor.row_length, wanted.weights_per_block)
        with self._making, self._named(entry):
            return _kept(self._kept, (entry, matrix, run), lambda: self._made(tensor, entry, matrix, run))

    def rows(self, tensor: Tensor, matrix: int) -> RowFactor | None:
        """The factor of a matrix's outputs; None without statistics, with few tokens or where it does not help.

        Raises InvalidInput if they can't be read.
        """
        if tensor.name not in self.gram.outputs:
            return None
        entry = output_entry(tensor.name)
        with self._making, self._named(entry):
            return _kept(
                self._rows_kept,
                (entry, matrix),
                lambda: RowFactor.of(self.gram.source.matrix(entry, matrix), LEAST_TOKENS_PER_COLUMN),
            )

    @contextmanager
    def _named(self, entry: str) -> Iterator[None]:
        """Turn the refusal of a matrix that is no Gram matrix into one that names the file."""
        try:
            yield
        except InvalidInput:
            raise
        except ValueError as error:
            what = f"has impossible statistics in {self.gram.where} ({error}): the file is damaged; collect it again"
            raise InvalidInput(Fault(entry, what)) from error

    def _made(self, tensor: Tensor, entry: str, matrix: int, run: int) -> MatrixFactor | None:
        known = self.gram.entries[entry]
        if known.tokens[matrix] < LEAST_TOKENS_PER_COLUMN * known.length:
            return None
        gram = statistics_of(self.gram, tensor, matrix)
        parts = zip(gram.columns(), gram.blocks, strict=True)
        return MatrixFactor(gram, tuple(ColumnBlock.of(columns, block, run) for columns, block in parts))


def statistics_of(gram: Gram, tensor: Tensor, matrix: int) -> MatrixGram:
    """The statistics by which the columns of a matrix are rounded; its tensor must have some.

    Raises InvalidInput if they can't be read.
    """
    entry = gram.shared[tensor.name]
    found = gram.source.matrix(entry, matrix)
    # Gradients have no usual length.
    return found.all_usual() if entry == curvature_entry(tensor.name) else found


def _kept(store: "OrderedDict[_Key, _Factor]", key: _Key, made: Callable[[], _Factor]) -> _Factor:
    """The value of a key, made if it is not among the last ones."""
    if key not in store:
        while len(store) >= _FACTORS_KEPT:
            store.popitem(last=False)
        store[key] = made()
    store.move_to_end(key)
    return store[key]
