"""Seconds that error feedback takes, from a moment of it on a part of one matrix of each kind.

Rules
- A kind is a role with its shape: all blocks of a model have the same. Of the matrix in the middle, the factors of some
  columns and rows are made, and the part of the weights that they are of is rounded by each type.
- Factors take steps as the cube of their width. Feedback and the choice of codes take rows × columns × (columns + rows
  that are fed together) steps, and the search for scales rows × columns: as long as plain rounding.
- As many parts are rounded at once as there will be tensors, so that they share the cores as those do.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Float32

import raq_native
from raq_client.compensation.column_block import ColumnBlock, run_of
from raq_client.compensation.compensate import LEAST_TOKENS_PER_COLUMN, TESTED_ROWS, MatrixFactor, statistics_of
from raq_client.compensation.factor import Metric
from raq_client.compensation.gram import Columns, Entry, MatrixGram, output_entry
from raq_client.compensation.row_feedback import RowBlock, RowFactor
from raq_client.estimates.pace import Clock
from raq_client.models.model_file import ModelFile
from raq_client.quantizing.ahead import MOST_AT_ONCE
from raq_client.quantizing.rounding import Rounding
from raq_solver.quant_types import UNQUANTIZED, QuantType
from raq_solver.tensors import Tensor

WIDEST_FACTOR: Final = 2048
"""Columns of the largest factor that is made to learn how long factors take."""
WIDEST_PART: Final = 1024
"""Rows and columns of the largest part of a matrix that is rounded."""
_BLOCK: Final = 256
_SMALLEST_BLOCK: Final = 32
_ROWS_ALONE: Final = 256
"""Rows of a part whose rows do not depend on each other."""
_F32: Final = 4
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Kind:
    """A role, and the shape of its matrices: rows, widths of the blocks of columns, heights of those of rows.

    There are no heights where rows are rounded by themselves.
    """

    role: str
    rows: int
    widths: tuple[int, ...]
    heights: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Weights of a matrix."""
        return self.rows * sum(self.widths)

    def steps(self, rows: int | None = None) -> int:
        """About how many multiplications feedback takes; of `rows` rows alone, if that is given.

        >>> Kind("attn_q", 8, (4,), ()).steps(), Kind("attn_q", 8, (4,), (8,)).steps()
        (128, 384)
        """
        if rows is not None or not self.heights:
            return sum((self.rows if rows is None else rows) * width**2 for width in self.widths)
        return sum(height * width * (width + height) for width in self.widths for height in self.heights)


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a matrix with its factors, and the seconds that all factors of the matrix take."""

    weights: Float32[np.ndarray, "rows columns"]
    inputs: MatrixFactor
    outputs: RowFactor | None
    of_inputs: float
    of_outputs: float

    @property
    def kind(self) -> Kind:
        """The shape of the part."""
        rows, columns = self.weights.shape
        return Kind("", rows, (columns,), () if self.outputs is None else (rows,))


@dataclass(frozen=True, slots=True)
class TypePace:
    """Seconds of a type for each weight in the search for scales, and for each step of feedback.

    `test_weight` and `test_step` are those of the rows on which feedback is tested; `helps`: they had less error with
    it.
    """

    weight: float
    step: float
    test_weight: float
    test_step: float
    helps: bool

    def seconds(self, kind: Kind) -> float:
        """Seconds to round a matrix."""
        return self.weight * kind.weights + (self.step * kind.steps() if self.helps else 0.0)

    def test_seconds(self, kind: Kind) -> float:
        """Seconds to find out whether feedback helps a matrix."""
        rows = min(kind.rows, TESTED_ROWS)
        return self.test_weight * rows * sum(kind.widths) + self.test_step * kind.steps(rows)


class FeedbackSeconds:
    """Seconds that error feedback takes on this machine, for the tensors of a model that have Gram statistics.

    `clock` returns seconds.
    """

    def __init__(self, model: ModelFile, rounding: Rounding, *, clock: Clock = time.perf_counter) -> None:
        assert rounding.compensation is not None, "without statistics there is no feedback"
        self._model, self._rounding, self._clock = model, rounding, clock
        self._gram = rounding.compensation.gram
        self._parts: dict[Kind, Part] = {}
        self._paces: dict[tuple[str, bool], TypePace] = {}

    def has(self, tensor: Tensor, wanted: QuantType) -> bool:
        """Whether feedback is tried on a tensor that gets this type."""
        known = self._gram.entry_of(tensor) is not None and self._matrices(tensor) > 0
        return known and wanted != tensor.source_type and wanted.name not in UNQUANTIZED

    def writing(self, types: Mapping[Tensor, Sequence[QuantType]], at_once: Callable[[Tensor], int]) -> float:
        """Seconds to make factors and blocks of tensors, each in an average one of its types.

        `at_once` returns how many such tensors are rounded at the same time.
        """
        total = self._factors(types)
        for tensor, offered in types.items():
            part, count = self._part(tensor), self._matrices(tensor)
            paces = [self._pace(tensor, each, at_once(tensor)) for each in offered]
            kind = self.kind(tensor, with_rows=part.outputs is not None)
            each = sum(pace.seconds(kind) / at_once(tensor) + pace.test_seconds(kind) for pace in paces) / len(paces)
            total += count * each
        return total

    def testing(self, types: Mapping[Tensor, Sequence[QuantType]]) -> float:
        """Seconds to find out what feedback leaves of the error of tensors at all of these types."""
        total = self._factors(types)
        for tensor, offered in types.items():
            kind = self.kind(tensor)
            paces = [self._pace(tensor, each, at_once_of(self._rounding, tensor)) for each in offered]
            total += self._matrices(tensor) * sum(pace.test_seconds(kind) for pace in paces)
        return total

    def memory(self, types: Iterable[Tensor]) -> int:
        """Bytes of the factors and statistics in memory at once: those of some tensors, the widest ones."""
        sizes = sorted((sum(width**2 for width in self.kind(tensor).widths) for tensor in types), reverse=True)
        return 2 * _F32 * sum(sizes[:MOST_AT_ONCE])

    def kind(self, tensor: Tensor, *, with_rows: bool = False) -> Kind:
        """The kind of a tensor; `with_rows`: with feedback between its rows."""
        entry = self._gram.entries[self._gram.shared[tensor.name]]
        heights = _widths(self._gram.entries[output_entry(tensor.name)]) if with_rows else ()
        return Kind(role_of(tensor.name), tensor.rows // tensor.matrices, _widths(entry), heights)

    def _matrices(self, tensor: Tensor) -> int:
        """Matrices with enough tokens for feedback."""
        return int((self._gram.tokens(tensor) >= LEAST_TOKENS_PER_COLUMN * tensor.row_length).sum())

    def _factors(self, tensors: Iterable[Tensor]) -> float:
        """Seconds to make all factors, those of tensors with the same inputs once."""
        inputs = dict[str, float]()
        outputs = 0.0
        for tensor in tensors:
            part, count = self._part(tensor), self._matrices(tensor)
            inputs[self._gram.shared[tensor.name]] = count * part.of_inputs
            outputs += count * part.of_outputs
        return sum(inputs.values()) + outputs

    def _part(self, tensor: Tensor) -> Part:
        kind = self.kind(tensor)
        if kind not in self._parts:
            same = [
                each for each in self._model.tensors if role_of(each.name) == kind.role and self._is_like(each, kind)
            ]
            self._parts[kind] = self._made(same[len(same) // 2])
        return self._parts[kind]

    def _is_like(self, tensor: Tensor, kind: Kind) -> bool:
        return self._gram.entry_of(tensor) is not None and self._matrices(tensor) > 0 and self.kind(tensor) == kind

    def _made(self, tensor: Tensor) -> Part:
        matrix = int(np.argmax(self._gram.tokens(tensor)))
        gram, reading = self._timed(lambda: statistics_of(self._gram, tensor, matrix))
        inputs, widths = gram.blocks[0], [len(block) for block in gram.blocks]
        making = self._factor_seconds(inputs, widths)
        of_outputs, outputs = self._outputs(tensor, matrix)
        rows, columns = tensor.rows // tensor.matrices, len(inputs)
        height = rows if outputs is None else len(outputs)
        shrunk = max(1.0, max(columns, height if outputs is not None else 1) / WIDEST_PART)
        columns = columns if shrunk == 1 else min(columns, -(-int(columns / shrunk) // _BLOCK) * _BLOCK)
        height = min(rows, _ROWS_ALONE) if outputs is None else max(1, int(height / shrunk))
        cut = MatrixGram((_corner(inputs, columns),), gram.tokens, np.ascontiguousarray(gram.held_out[:, :columns]))
        block = ColumnBlock.of(Columns(0, columns), cut.blocks[0], run_of(columns, _SMALLEST_BLOCK))
        factor = MatrixFactor(cut, (block,))
        of_rows = (
            None if outputs is None else RowFactor((RowBlock.of(Columns(0, height), _corner(outputs, height)),), 1)
        )
        first = matrix * rows
        weights = np.ascontiguousarray(self._model.weights(tensor, first, first + height)[:, :columns])
        return Part(weights, factor, of_rows, reading + making, of_outputs)

    def _outputs(self, tensor: Tensor, matrix: int) -> tuple[float, Float32[np.ndarray, "rows rows"] | None]:
        """Seconds of the factors of a matrix's outputs, and the statistics of the first block if these help there."""
        if tensor.name not in self._gram.outputs:
            return 0.0, None
        found, reading = self._timed(lambda: self._gram.source.matrix(output_entry(tensor.name), matrix))
        block, heights = found.blocks[0], [len(each) for each in found.blocks]
        if found.tokens < LEAST_TOKENS_PER_COLUMN * found.length:
            return reading, None
        first = MatrixGram((block,), found.tokens, np.ascontiguousarray(found.held_out[:, : len(block)]))
        factor, making = self._timed(lambda: RowFactor.of(first, 0))
        return reading + making * _cubes(heights) / len(block) ** 3, None if factor is None else block

    def _factor_seconds(self, gram: Float32[np.ndarray, "width width"], widths: Sequence[int]) -> float:
        width = min(len(gram), WIDEST_FACTOR)
        part = _corner(gram, width)
        _, seconds = self._timed(lambda: Metric.of(part))
        return seconds * _cubes(widths) / width**3

    def _pace(self, tensor: Tensor, wanted: QuantType, at_once: int) -> TypePace:
        part = self._part(tensor)
        key = wanted.name, part.outputs is not None
        if key not in self._paces:
            self._paces[key] = self._measured(part, wanted.name, at_once)
        return self._paces[key]

    def _measured(self, part: Part, name: str, at_once: int) -> TypePace:
        by, kind = self._rounding, part.kind
        threads = max(1, (by.threads or os.cpu_count() or 1) // at_once)
        search = partial(by.device.call, raq_native.quantize, name, effort=by.effort)
        fed = partial(part.inputs.quantize, name, effort=by.effort, call=by.device.call)

        def whole() -> None:
            if part.outputs is None:
                fed(part.weights, threads=threads)
            else:
                part.outputs.quantize(part.weights, lambda rows, block, _: fed(rows, block, threads=threads), threads)

        _, plainly = self._together(lambda: search(part.weights, None, threads=threads), at_once)
        _, seconds = self._together(whole, at_once)
        rows = part.weights[:TESTED_ROWS]
        plain, searched = self._timed(lambda: search(rows, None))
        gain, tested = self._timed(lambda: part.inputs.gain(name, rows, plain, effort=by.effort))
        return TypePace(
            weight=plainly / part.weights.size,
            step=max(0.0, seconds - plainly) / kind.steps(),
            test_weight=2 * searched / rows.size,  # plainly, and in feedback
            test_step=max(0.0, tested - searched) / kind.steps(len(rows)),
            helps=gain < 1,
        )

    def _timed(self, work: Callable[[], _T]) -> tuple[_T, float]:
        began = self._clock()
        found = work()
        return found, self._clock() - began

    def _together(self, work: Callable[[], _T], at_once: int) -> tuple[_T, float]:
        """What the work returns, and the seconds until it is done by as many threads."""
        began = self._clock()
        with ThreadPoolExecutor(at_once) as pool:
            found = [each.result() for each in [pool.submit(work) for _ in range(at_once)]]
        return found[0], self._clock() - began


def at_once_of(rounding: Rounding, tensor: Tensor) -> int:
    """How many tensors like this one are rounded at once when a file is written."""
    threads = rounding.threads or os.cpu_count() or 1
    return min(threads, MOST_AT_ONCE) if rounding.needs_all_rows(tensor) else 1


def role_of(name: str) -> str:
    """The name of a tensor without the number of its block.

    >>> role_of("blk.12.attn_q.weight"), role_of("output.weight")
    ('blk.attn_q.weight', 'output.weight')
    """
    return re.sub(r"^blk\.\d+\.", "blk.", name)


def _widths(entry: Entry) -> tuple[int, ...]:
    return tuple(each.last - each.first for each in entry.blocks)


def _cubes(widths: Iterable[int]) -> int:
    return sum(width**3 for width in widths)


def _corner(square: Float32[np.ndarray, "size size"], width: int) -> Float32[np.ndarray, "width width"]:
    return np.ascontiguousarray(square[:width, :width])
